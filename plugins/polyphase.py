"""2x up as four ordinary convolutions: the FIR and the zero insertion folded into the weights, ahead of time.

The reference inserts zeros, convolves with `w` and filters with `f`. Both are linear, so on one axis

    y[o] = sum_i g[o + s - 2 i] x[i],   g = 2 (w * f),   s = fh - 1 - p,   p = ceil((fh + 1 - k) / 2)

where `p` is the padding before the FIR. For `o = 2 q + r` and `i = q + t - R` this is a correlation of `x` around `q`
with the taps `w_r[t] = g[r + s - 2 (t - R)]`: one kernel per parity `r`, four in two dimensions. For `k` 3 and four FIR
taps, `R` is 1 and every tap of the four 3x3 kernels meets one tap of the 6x6 `g`: nothing is multiplied by zero. Exact
under modulation, which scales input channels, and demodulation, which scales output channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stylert.plugins.shapes import phase_geometry


def fold(weight: Tensor, f: Tensor) -> Tensor:
    """The four phase kernels of the 2x up convolution with `weight` and FIR `f`.

    Args:
        weight: `[O, I, k, k]`, k odd, as for `modulated_conv2d` with `up` 2.
        f: `[t, t]`, the FIR filter.

    Returns:
        `[4, O, I, K, K]` in the dtype of `weight`, phase `2 * (y parity) + (x parity)`, K odd; 3 for k = 3 and t = 4.

    Raises:
        ValueError: an even or oblong kernel, an oblong filter.

    Differentiable with respect to `weight`.
    """
    if weight.ndim != 4 or weight.shape[2] != weight.shape[3] or weight.shape[2] % 2 == 0:
        raise ValueError(f"fold: the kernel must be [O, I, k, k] with k odd, not {list(weight.shape)}")
    if f.ndim != 2 or f.shape[0] != f.shape[1]:
        raise ValueError(f"fold: the filter must be square, not {list(f.shape)}")
    o, i, k, _ = weight.shape
    taps = f.shape[0]
    radius, shift = phase_geometry(k, taps)
    size = k + taps - 1

    # The gain 4 of the reference is 2 on each axis. A full convolution is a correlation with the flipped filter.
    kernel = (f * 4.0).to(weight.dtype).flip((0, 1))[None, None]
    g = F.conv2d(weight.reshape(o * i, 1, k, k), kernel, padding=taps - 1).reshape(o, i, size, size)
    # Reversed, tap t of phase r sits at size - 1 - (r + shift) + 2 (t - radius): a strided slice once padded.
    width = 2 * radius + 1
    starts = [size - 1 - (r + shift) - 2 * radius for r in (0, 1)]
    before = max(0, -min(starts))
    after = max(0, max(starts) + 2 * width - 1 - size)
    reversed_g = F.pad(g.flip((2, 3)), [before, after, before, after])
    phases = []
    for start_y in starts:
        for start_x in starts:
            rows = reversed_g[:, :, before + start_y :: 2, before + start_x :: 2]
            phases.append(rows[:, :, :width, :width])
    return torch.stack(phases)
