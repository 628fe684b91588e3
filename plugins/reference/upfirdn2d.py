"""Upfirdn2d in PyTorch: zero-insert, pad or crop, FIR filter, decimate.

The operator is that of Karras et al. 2020 (StyleGAN2), appendix B. It is the two-dimensional form of
`scipy.signal.upfirdn` with explicit padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stylert.plugins.shapes import Resampling, upfirdn2d_shape

PairOrInt = int | Sequence[int]


def setup_filter(taps: Sequence[float] | Sequence[Sequence[float]] = (1, 3, 3, 1)) -> Tensor:
    """A 2-D FIR filter from its taps, with unit sum. 1-D taps give their outer product.

    Returns:
        float32 `[fh, fw]`. The filter of StyleGAN2 is `outer([1, 3, 3, 1]) / 64`.

    Raises:
        ValueError: No taps, or more than two dimensions.
    """
    f = torch.as_tensor(taps, dtype=torch.float32)
    if f.ndim == 1:
        f = torch.outer(f, f)
    if f.ndim != 2 or f.numel() == 0:
        raise ValueError(f"a FIR filter has one or two dimensions and at least one tap, not shape {tuple(f.shape)}")
    return f / f.sum()


def upfirdn2d(
    x: Tensor,
    f: Tensor,
    up: PairOrInt = 1,
    down: PairOrInt = 1,
    padding: PairOrInt = 0,
    flip: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Upsample by zero insertion, pad, filter, and decimate each channel of an image batch.

    It is differentiable to any order in `x`, and in `f` if `f` requires a gradient.

    Args:
        x: `[N, C, H, W]`, any floating dtype.
        f: `[fh, fw]`, the FIR filter.
        up: Factors of zero insertion, one or `(y, x)`.
        down: Factors of decimation, one or `(y, x)`.
        padding: After zero insertion, in upsampled pixels: one value, `(y, x)` or `(top, bottom, left, right)`.
            Negative values crop.
        flip: False convolves, True correlates.
        gain: Multiplies the result.

    Returns:
        `[N, C, H', W']` in the dtype of `x`, with `H' = (H * up + top + bottom - fh) // down + 1`.

    Raises:
        ValueError: A shape, a factor or a padding that leaves no output.
    """
    return apply_resampling(x, f, Resampling.of(up, down, padding, flip, gain))


def upsample2d(x: Tensor, f: Tensor, up: int = 2) -> Tensor:
    """Upsample `[N, C, H, W]` by `up` with FIR `f`, keeping the mean: padding [2, 1, 2, 1] for 4 taps and `up` 2."""
    return apply_resampling(x, f, Resampling.upsampling(f.shape, up))


def downsample2d(x: Tensor, f: Tensor, down: int = 2) -> Tensor:
    """Low-pass `[N, C, H, W]` with FIR `f`, keep each `down`-th pixel: padding [1, 1, 1, 1] for 4 taps and `down` 2."""
    return apply_resampling(x, f, Resampling.downsampling(f.shape, down))


def apply_resampling(x: Tensor, f: Tensor, spec: Resampling) -> Tensor:
    """`upfirdn2d` with its attributes in one object.

    Raises:
        ValueError: Shapes that leave no output.
    """
    upfirdn2d_shape(x.shape, f.shape, spec)
    if f.requires_grad or not x.requires_grad:
        return _filter(x, f, spec)
    y: Tensor = _Upfirdn2d.apply(x, f, spec)
    return y


class _Upfirdn2d(torch.autograd.Function):
    """Upfirdn2d with a filter that needs no gradient. Its transpose is an upfirdn, and so is every further derivative.

    Autograd alone would differentiate the depthwise convolution a second time channel by channel.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, f: Tensor, spec: Resampling) -> Tensor:
        ctx.save_for_backward(f)
        ctx.adjoint = spec.adjoint((x.shape[2], x.shape[3]), (f.shape[0], f.shape[1]))
        return _filter(x, f, spec)

    @staticmethod
    def backward(ctx: Any, *dy: Tensor) -> tuple[Tensor, None, None]:
        (f,) = ctx.saved_tensors
        return apply_resampling(dy[0], f, ctx.adjoint), None, None


def _filter(x: Tensor, f: Tensor, spec: Resampling) -> Tensor:
    (up_y, up_x), (down_y, down_x), (top, bottom, left, right) = spec.up, spec.down, spec.padding
    c, (fh, fw) = x.shape[1], f.shape
    kernel = (f if spec.flip else f.flip((0, 1))).to(x.dtype)
    if spec.gain != 1.0:
        kernel = kernel * spec.gain
    kernel = kernel.expand(c, 1, fh, fw)
    if up_y != 1 or up_x != 1:
        # A CPU runs the channels of a depthwise transposed convolution one by one. Zeros and a convolution are faster.
        x = _insert_zeros(x, up_y, up_x)
    if min(top, bottom, left, right) >= 0 and top == bottom and left == right:
        y = F.conv2d(x, kernel, padding=(top, left), groups=c)
    else:
        y = F.conv2d(_pad_or_crop(x, [left, right, top, bottom]), kernel, groups=c)
    # A slice decimates. On a CPU the backward pass of a strided depthwise convolution is slower.
    return y if down_y == down_x == 1 else y[:, :, ::down_y, ::down_x]


def _insert_zeros(x: Tensor, up_y: int, up_x: int) -> Tensor:
    n, c, h, w = x.shape
    layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    y = torch.empty([n, c, h * up_y, w * up_x], dtype=x.dtype, device=x.device, memory_format=layout).zero_()
    y[:, :, ::up_y, ::up_x] = x
    return y


def _pad_or_crop(x: Tensor, sides: list[int]) -> Tensor:
    # Pad first, then crop: `F.pad` refuses to crop more rows than there are, even if the other side adds some.
    if min(sides) < 0 < max(sides):
        x, sides = F.pad(x, [max(s, 0) for s in sides]), [min(s, 0) for s in sides]
    return F.pad(x, sides)
