"""A 2x upsampling convolution as ordinary ones: the kernels of its four phases, with the FIR behind them or folded in."""

from __future__ import annotations

import numpy as np

from stylert.plugins.polyphase import fold


def polyphase_weights(weight: np.ndarray, fir: np.ndarray) -> np.ndarray:
    """The four 3x3 kernels of a stride-2 transposed convolution with a FIR after it, phase-major; see `plugins.polyphase`.

    Args:
        weight: `[O, I, 3, 3]`.
        fir: `[4, 4]`, the correlation kernel of the FIR, with its gain of 4.

    Returns:
        `[4 O, I, 3, 3]` in the dtype of `weight`, computed in float64.
    """
    o, i = weight.shape[:2]
    phases = fold(weight.astype(np.float64), fir[::-1, ::-1].astype(np.float64) / 4)
    return phases.reshape(4 * o, i, 3, 3).astype(weight.dtype)


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
