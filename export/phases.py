"""A 2x upsampling convolution as ordinary ones: the kernels of its four phases, with the FIR behind them or folded in."""

from __future__ import annotations

import numpy as np


def polyphase_weights(weight: np.ndarray, fir: np.ndarray) -> np.ndarray:
    """The four 3x3 kernels of a stride-2 transposed convolution with a FIR after it: `[O, I, 3, 3]` to `[4 O, I, 3, 3]`.

    `fir` is the correlation kernel `[4, 4]` with its gain. Convolved with it, the 3x3 kernel has 6x6 taps; every output pixel
    meets nine of them, those of its parity.
    """
    o, i = weight.shape[:2]
    full = np.zeros((o, i, 6, 6))
    for y in range(3):
        for x in range(3):
            full[:, :, y : y + 4, x : x + 4] += weight[:, :, y, x, None, None] * fir[::-1, ::-1].astype(np.float64)
    # Output pixel 2 q + r sees input pixel q + t - 1 through tap 4 + r - 2 t: from the last taps to the first.
    taps = [[4 + r - 2 * t for t in range(3)] for r in (0, 1)]
    phases = [full[:, :, taps[ry]][:, :, :, taps[rx]] for ry in (0, 1) for rx in (0, 1)]
    return np.concatenate(phases).astype(weight.dtype)


def phase_weights(weight: np.ndarray) -> np.ndarray:
    """The four 2x2 kernels of a stride-2 transposed convolution: `[O, I, 3, 3]` to `[4 O, I, 2, 2]`, phase-major.

    An even output pixel sees taps 2 and 0 on two neighbouring inputs, an odd one tap 1 on the second of them.
    """
    rows = np.stack([weight[:, :, [2, 0]], np.stack([np.zeros_like(weight[:, :, 1]), weight[:, :, 1]], axis=2)])
    even, odd = rows[..., [2, 0]], np.stack([np.zeros_like(rows[..., 1]), rows[..., 1]], axis=-1)
    o, i = weight.shape[:2]
    return np.stack([even, odd], axis=1).reshape(4 * o, i, 2, 2)


def merge_phases(phases: np.ndarray) -> np.ndarray:
    """What `phase_weights` makes of a kernel, back to the kernel: `[4 O, I, 2, 2]` to `[O, I, 3, 3]`."""
    even_even, even_odd, odd_even, odd_odd = phases.reshape(4, -1, *phases.shape[1:])
    weight = np.empty((*even_even.shape[:2], 3, 3), phases.dtype)
    weight[:, :, ::2, ::2] = even_even[:, :, ::-1, ::-1]
    weight[:, :, ::2, 1] = even_odd[:, :, ::-1, 1]
    weight[:, :, 1, ::2] = odd_even[:, :, 1, ::-1]
    weight[:, :, 1, 1] = odd_odd[:, :, 1, 1]
    return weight
