"""FilteredLrelu in PyTorch: the nonlinearity of StyleGAN3 between two filters (Karras et al. 2021, section 3.2)."""

from __future__ import annotations

import dataclasses

import torch.nn.functional as F
from torch import Tensor

from stylert.plugins.constants import ACTIVATION_GAIN, LRELU_SLOPE
from stylert.plugins.filtered_lrelu import FilteredLrelu, filtered_lrelu_shape
from stylert.plugins.reference.upfirdn2d import PairOrInt, apply_resampling
from stylert.plugins.shapes import Resampling


def filtered_lrelu(
    x: Tensor,
    b: Tensor | None = None,
    fu: Tensor | None = None,
    fd: Tensor | None = None,
    *,
    up: PairOrInt = 1,
    down: PairOrInt = 1,
    padding: PairOrInt = 0,
    slope: float = LRELU_SLOPE,
    gain: float = ACTIVATION_GAIN["lrelu"],
    clamp: float | None = None,
) -> Tensor:
    """Bias, upsampling with `fu`, leaky ReLU, gain, clamp, downsampling with `fd`.

    It is differentiable to any order in `x` and `b`. The filters are constants and are convolved, not correlated.

    Args:
        x: `[N, C, H, W]`, any floating dtype.
        b: `[C]` or None.
        fu: Filter behind the zero insertion, `[t]` for the same taps on both axes, or `[fh, fw]`. None is one tap of 1.
        fd: Filter in front of the decimation, likewise.
        up: Factors of zero insertion, one or `(y, x)`. The values are multiplied by `up_y * up_x`.
        down: Factors of decimation, one or `(y, x)`.
        padding: In pixels after zero insertion: one value, `(y, x)` or `(top, bottom, left, right)`. Negative crops.
        slope: Slope of the leaky ReLU for negative values. 1 is linear.
        gain: Positive. It multiplies the result of the leaky ReLU.
        clamp: Positive bound of the absolute value between the filters, or None.

    Returns:
        `[N, C, H', W']` in the dtype of `x`, with `H' = (H * up_y + top + bottom - fu_h - fd_h + 1) // down_y + 1`.

    Raises:
        ValueError: A shape, a factor or a padding that leaves no output, or a filter that requires a gradient.
    """
    spec = FilteredLrelu.of(up, down, padding, slope, gain, clamp)
    fu_shape, fd_shape = ((1,) if f is None else tuple(f.shape) for f in (fu, fd))
    filtered_lrelu_shape(x.shape, None if b is None else b.shape, fu_shape, fd_shape, spec)
    if any(f is not None and f.requires_grad for f in (fu, fd)):
        raise ValueError("filtered_lrelu: the filters are constants and have no gradient: pass them detached")
    if b is not None:
        x = x + b.to(x.dtype)[:, None, None]
    x = _resample(x, fu, spec.up)
    if spec.epilogue.slope != 1.0:
        x = F.leaky_relu(x, spec.epilogue.slope)
    if spec.epilogue.gain != 1.0:
        x = x * spec.epilogue.gain
    if spec.epilogue.clamp:
        x = x.clamp(-spec.epilogue.clamp, spec.epilogue.clamp)
    return _resample(x, fd, spec.down)


def _resample(x: Tensor, f: Tensor | None, spec: Resampling) -> Tensor:
    """Upfirdn2d. A filter of one dimension works on one axis after the other."""
    if f is None:
        if spec == Resampling():
            return x
        f = x.new_ones(1)
    if f.ndim == 2:
        return apply_resampling(x, f, spec)
    top, bottom, left, right = spec.padding
    rows = dataclasses.replace(spec, up=(spec.up[0], 1), down=(spec.down[0], 1), padding=(top, bottom, 0, 0))
    columns = Resampling((1, spec.up[1]), (1, spec.down[1]), (0, 0, left, right))
    return apply_resampling(apply_resampling(x, f[:, None], rows), f[None], columns)
