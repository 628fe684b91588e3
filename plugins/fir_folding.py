"""Folds the FIR filter of a 2x upsampling convolution into its weights. The result is four ordinary convolutions.

The reference inserts zeros, convolves with `w` and filters with `f`. Both are linear, so on one axis

    y[o] = sum_i g[o + s - 2 i] x[i],   g = 2 (w * f),   s = fh - 1 - p,   p = ceil((fh + 1 - k) / 2)

where `p` is the padding before the FIR. With `o = 2 q + r` and `i = q + t - R` this is a correlation of `x` around `q`
with the taps `w_r[t] = g[r + s + 2 (R - t)]`. There is one kernel for each parity `r`, so four in two dimensions. For
`k` 3 and four FIR taps, `R` is 1: each tap of the four 3x3 kernels is one tap of the 6x6 `g`, and nothing is multiplied
by zero.

The fold is exact under modulation, which scales input channels, and under demodulation, which scales output channels.
It takes NumPy arrays and torch tensors, and does not import torch.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from stylert.plugins.shapes import phase_geometry

#: `numpy.ndarray` or `torch.Tensor`.
Array = TypeVar("Array", bound=Any)


def fold(weight: Array, f: Array) -> Array:
    """The four phase kernels of the 2x upsampling convolution with `weight` and the FIR filter `f`.

    Args:
        weight: `[O, I, k, k]`, k odd, as `modulated_conv2d` takes it for `up` 2. A NumPy array or a torch tensor.
        f: `[t, t]`, of the same library. A true convolution with it follows the zero insertion.

    Returns:
        `[4, O, I, K, K]` in the dtype of `weight`, phase `2 * (y parity) + (x parity)`, K odd. K is 3 for k = 3 and
        t = 4. For tensors it is differentiable with respect to `weight`.

    Raises:
        ValueError: A kernel that is even or not square, or a filter that is not square.
    """
    if weight.ndim != 4 or weight.shape[2] != weight.shape[3] or weight.shape[2] % 2 == 0:
        raise ValueError(f"fold: the kernel must be [O, I, k, k] with k odd, not {list(weight.shape)}")
    if f.ndim != 2 or f.shape[0] != f.shape[1]:
        raise ValueError(f"fold: the filter must be square, not {list(f.shape)}")
    o, i, k, _ = weight.shape
    matrix = _fold_matrix(weight, f)
    width = matrix.shape[-1]
    phases = weight.reshape(o * i, k * k) @ matrix.reshape(k * k, 4 * width * width)
    return phases.reshape(o * i, 4, width * width).swapaxes(0, 1).reshape(4, o, i, width, width)


def channels_last_phases(weight: np.ndarray, f: np.ndarray | None) -> np.ndarray:
    """A layer's weight as the kernels read it fastest: folded where the layer upsamples, input channels last.

    Args:
        weight: `[O, I, k, k]`, k odd.
        f: `[t, t]` for a 2x up layer, as `fold` takes it. None for a layer of the same size.

    Returns:
        `[P, O, K, K, I]`, P 4 or 1, contiguous, in the dtype of `weight`, computed in float64.
    """
    phases = weight[None] if f is None else fold(weight.astype(np.float64), f.astype(np.float64))
    return np.ascontiguousarray(phases.transpose(0, 1, 3, 4, 2).astype(weight.dtype))


def _fold_matrix(weight: Any, f: Any) -> Any:
    """The contribution of every kernel entry to every phase tap: `[k, k, 4, K, K]` in the dtype of `weight`."""
    k, taps = weight.shape[2], f.shape[0]
    radius, shift = phase_geometry(k, taps)
    width = 2 * radius + 1
    # On one axis, entry y of the kernel adds 2 f[u] to g[y + u]. This array starts at tap `shift - 2 radius` of g.
    offset = 2 * radius - shift
    g = _zeros((k, k, 2 * width, 2 * width), weight)
    for y in range(k):
        for x in range(k):
            g[y, x, y + offset : y + offset + taps, x + offset : x + offset + taps] = f * 4.0
    # Tap t of phase r is g[r + shift + 2 (radius - t)]: every second tap of g, from the last to the first.
    by_parity = _reversed(g.reshape(k * k, width, 2, width, 2), (1, 3))
    taps_first = by_parity.swapaxes(2, 3).reshape(k * k, width * width, 4)
    return taps_first.swapaxes(1, 2).reshape(k, k, 4, width, width)


def _zeros(shape: tuple[int, ...], like: Any) -> Any:
    """Zeros of the library, dtype and device of `like`."""
    return np.zeros(shape, like.dtype) if isinstance(like, np.ndarray) else like.new_zeros(shape)


def _reversed(array: Any, axes: tuple[int, ...]) -> Any:
    return np.flip(array, axes) if isinstance(array, np.ndarray) else array.flip(axes)
