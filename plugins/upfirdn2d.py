"""Upfirdn2d: zero-insert, pad or crop, FIR filter, decimate. The PyTorch reference.

The operator is defined as in Karras et al. 2020 (StyleGAN2), appendix B, and is the two-dimensional form of
`scipy.signal.upfirdn` with explicit padding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

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

    Differentiable to any order: it is written in operations that are.
    """
    upy, upx = _pair(up, "up")
    downy, downx = _pair(down, "down")
    top, bottom, left, right = _padding(padding)
    if x.ndim != 4:
        raise ValueError(f"upfirdn2d takes [N, C, H, W], not {list(x.shape)}")
    if f.ndim != 2:
        raise ValueError(f"upfirdn2d takes a filter [fh, fw], not {list(f.shape)}")
    c, h, w = x.shape[1:]
    fh, fw = f.shape
    if h * upy + top + bottom < fh or w * upx + left + right < fw:
        raise ValueError(f"upfirdn2d: padded input is smaller than the {fh}x{fw} filter")

    kernel = (f if flip else f.flip((0, 1))).to(x.dtype)
    if gain != 1.0:
        kernel = kernel * gain
    kernel = kernel.expand(c, 1, fh, fw)
    if upy == upx == 1:
        if min(top, bottom, left, right) >= 0 and top == bottom and left == right:
            y = F.conv2d(x, kernel, padding=(top, left), groups=c)
        else:
            y = F.conv2d(_pad_or_crop(x, [left, right, top, bottom]), kernel, groups=c)
    else:
        # A transposed convolution is zero insertion and a full convolution at once. What it computes is the input padded
        # by fh - 1 on both sides, less the up - 1 zeros after the last row; the rest of the padding is added or cropped.
        y = F.conv_transpose2d(x, kernel.flip((2, 3)), stride=(upy, upx), groups=c)
        y = _pad_or_crop(y, [left - fw + 1, right - fw + upx, top - fh + 1, bottom - fh + upy])
    # Decimated by slicing: on a CPU the backward pass of a strided depthwise convolution costs seven times as much.
    return y if downy == downx == 1 else y[:, :, ::downy, ::downx]


def upsample2d(x: Tensor, f: Tensor, up: int = 2) -> Tensor:
    """Upsample `[N, C, H, W]` by `up` with FIR `f`, keeping the mean: padding [2, 1, 2, 1] for 4 taps and `up` 2."""
    fh, fw = f.shape
    pad = [(fh + up - 1) // 2, (fh - up) // 2, (fw + up - 1) // 2, (fw - up) // 2]
    return upfirdn2d(x, f, up=up, padding=pad, gain=float(up * up))


def downsample2d(x: Tensor, f: Tensor, down: int = 2) -> Tensor:
    """Low-pass `[N, C, H, W]` with FIR `f` and keep every `down`-th pixel: padding [1, 1, 1, 1] for 4 taps and `down` 2."""
    fh, fw = f.shape
    pad = [(fh - down + 1) // 2, (fh - down) // 2, (fw - down + 1) // 2, (fw - down) // 2]
    return upfirdn2d(x, f, down=down, padding=pad)


def _pad_or_crop(x: Tensor, sides: list[int]) -> Tensor:
    # In two steps, because `F.pad` cannot crop more on one side than there is, though the other side makes up for it.
    if min(sides) < 0 < max(sides):
        x, sides = F.pad(x, [max(s, 0) for s in sides]), [min(s, 0) for s in sides]
    return F.pad(x, sides)


def _pair(value: PairOrInt, name: str) -> tuple[int, int]:
    y, x = (value, value) if isinstance(value, int) else value
    if y < 1 or x < 1:
        raise ValueError(f"upfirdn2d: {name} must be at least 1, not {(y, x)}")
    return y, x


def _padding(value: PairOrInt) -> tuple[int, int, int, int]:
    if isinstance(value, int):
        return value, value, value, value
    if len(value) == 2:
        y, x = value
        return y, y, x, x
    if len(value) == 4:
        top, bottom, left, right = value
        return top, bottom, left, right
    raise ValueError(f"upfirdn2d: padding has 1, 2 or 4 values, not {len(value)}")
