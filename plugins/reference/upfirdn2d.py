"""Upfirdn2d: zero-insert, pad or crop, FIR filter, decimate. The PyTorch reference.

The operator is defined as in Karras et al. 2020 (StyleGAN2), appendix B, and is the two-dimensional form of
`scipy.signal.upfirdn` with explicit padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stylert.plugins.shapes import Resampling

PairOrInt = int | Sequence[int]


def setup_filter(taps: Sequence[float] | Sequence[Sequence[float]] = (1, 3, 3, 1)) -> Tensor:
    """Normalised 2-D FIR filter from its taps; 1-D taps give their outer product.

    Returns float32 `[fh, fw]` with unit sum. The StyleGAN2 filter is `outer([1, 3, 3, 1]) / 64`.
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

    Args:
        x: `[N, C, H, W]`, any floating dtype.
        f: `[fh, fw]`, the FIR filter, applied as a true convolution unless `flip`.
        up, down: integer factors, one or `(y, x)`.
        padding: after zero insertion, in upsampled pixels: one value, `(y, x)` or `(top, bottom, left, right)`.
            Negative values crop.
        flip: correlate instead of convolve.
        gain: multiplies the result.

    Returns:
        `[N, C, H', W']` in the dtype of `x`, with
        `H' = (H * up + top + bottom - fh) // down + 1`.

    Raises:
        ValueError: on a shape, factor or padding that leaves no output.

    Differentiable to any order in `x`, and in `f` where it asks for a gradient.
    """
    spec = Resampling.of(up, down, padding, flip, gain)
    if x.ndim != 4:
        raise ValueError(f"upfirdn2d takes [N, C, H, W], not {list(x.shape)}")
    if f.ndim != 2:
        raise ValueError(f"upfirdn2d takes a filter [fh, fw], not {list(f.shape)}")
    spec.output_size((x.shape[2], x.shape[3]), (f.shape[0], f.shape[1]))
    if f.requires_grad or not x.requires_grad:
        return _filter(x, f, spec)
    y: Tensor = _Upfirdn2d.apply(x, f, spec)
    return y


class _Upfirdn2d(torch.autograd.Function):
    """The filter as a constant: the transpose of an upfirdn is an upfirdn, and so is every further derivative.

    Left to itself, autograd differentiates the depthwise convolution inside a second time channel by channel.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, f: Tensor, spec: Resampling) -> Tensor:
        ctx.save_for_backward(f)
        ctx.adjoint = spec.adjoint((x.shape[2], x.shape[3]), (f.shape[0], f.shape[1]))
        return _filter(x, f, spec)

    @staticmethod
    def backward(ctx: Any, *dy: Tensor) -> tuple[Tensor, None, None]:
        (f,), adjoint = ctx.saved_tensors, ctx.adjoint
        return upfirdn2d(dy[0], f, adjoint.up, adjoint.down, adjoint.padding, adjoint.flip, adjoint.gain), None, None


def _filter(x: Tensor, f: Tensor, spec: Resampling) -> Tensor:
    (up_y, up_x), (down_y, down_x), (top, bottom, left, right) = spec.up, spec.down, spec.padding
    c, (fh, fw) = x.shape[1], f.shape
    kernel = (f if spec.flip else f.flip((0, 1))).to(x.dtype)
    if spec.gain != 1.0:
        kernel = kernel * spec.gain
    kernel = kernel.expand(c, 1, fh, fw)
    if up_y != 1 or up_x != 1:
        # Not as a transposed convolution, which on a CPU runs the channels of a depthwise one singly: 50 times as slow.
        x = _insert_zeros(x, up_y, up_x)
    if min(top, bottom, left, right) >= 0 and top == bottom and left == right:
        y = F.conv2d(x, kernel, padding=(top, left), groups=c)
    else:
        y = F.conv2d(_pad_or_crop(x, [left, right, top, bottom]), kernel, groups=c)
    # Decimated by slicing: on a CPU the backward pass of a strided depthwise convolution costs seven times as much.
    return y if down_y == down_x == 1 else y[:, :, ::down_y, ::down_x]


def upsample2d(x: Tensor, f: Tensor, up: int = 2) -> Tensor:
    """Upsample `[N, C, H, W]` by `up` with FIR `f`, keeping the mean: padding [2, 1, 2, 1] for 4 taps and `up` 2."""
    return upfirdn2d(x, f, up=up, padding=upsampling_padding(f, up), gain=float(up * up))


def downsample2d(x: Tensor, f: Tensor, down: int = 2) -> Tensor:
    """Low-pass `[N, C, H, W]` with FIR `f` and keep every `down`-th pixel: padding [1, 1, 1, 1] for 4 taps and `down` 2."""
    return upfirdn2d(x, f, down=down, padding=downsampling_padding(f, down))


def upsampling_padding(f: Tensor, up: int) -> list[int]:
    """What keeps every pixel at its place when the image is made `up` times as large."""
    return [side for taps in f.shape for side in ((taps + up - 1) // 2, (taps - up) // 2)]


def downsampling_padding(f: Tensor, down: int) -> list[int]:
    """What makes `down` pixels one around their middle."""
    return [side for taps in f.shape for side in ((taps - down + 1) // 2, (taps - down) // 2)]


def _insert_zeros(x: Tensor, up_y: int, up_x: int) -> Tensor:
    n, c, h, w = x.shape
    layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    y = torch.empty([n, c, h * up_y, w * up_x], dtype=x.dtype, device=x.device, memory_format=layout).zero_()
    y[:, :, ::up_y, ::up_x] = x
    return y


def _pad_or_crop(x: Tensor, sides: list[int]) -> Tensor:
    # In two steps, because `F.pad` cannot crop more on one side than there is, though the other side makes up for it.
    if min(sides) < 0 < max(sides):
        x, sides = F.pad(x, [max(s, 0) for s in sides]), [min(s, 0) for s in sides]
    return F.pad(x, sides)
