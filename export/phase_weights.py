"""Kernels of the four phases of a 2x upsampling convolution, without and with the FIR.

Each phase is an ordinary convolution. It computes the output pixels of one parity in y and x. A depth-to-space
interleaves the four.
"""

from __future__ import annotations

import numpy as np

from stylert.plugins.fir_folding import fold


def polyphase_weights(weight: np.ndarray, fir: np.ndarray) -> np.ndarray:
    """The four 3x3 kernels of a stride-2 transposed convolution and its FIR, phase-major (`plugins/fir_folding.py`).

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
    """The four 2x2 kernels of a stride-2 transposed convolution, phase-major, without a FIR.

    On each axis an even output pixel is a sum of two neighbouring inputs, with taps 2 and 0 of the kernel. An odd one
    is the second of these inputs times tap 1.

    Args:
        weight: `[O, I, 3, 3]`.

    Returns:
        `[4 O, I, 2, 2]`.
    """
    phases = np.zeros((4, *weight.shape[:2], 2, 2), weight.dtype)
    even_even, even_odd, odd_even, odd_odd = phases
    even_even[:] = weight[:, :, ::-2, ::-2]
    even_odd[..., 1] = weight[:, :, ::-2, 1]
    odd_even[..., 1, :] = weight[:, :, 1, ::-2]
    odd_odd[..., 1, 1] = weight[:, :, 1, 1]
    return phases.reshape(-1, *phases.shape[2:])


def merge_phases(phases: np.ndarray) -> np.ndarray:
    """The inverse of `phase_weights`: `[4 O, I, 2, 2]` to `[O, I, 3, 3]`."""
    even_even, even_odd, odd_even, odd_odd = phases.reshape(4, -1, *phases.shape[1:])
    weight = np.empty((*even_even.shape[:2], 3, 3), phases.dtype)
    weight[:, :, ::2, ::2] = even_even[:, :, ::-1, ::-1]
    weight[:, :, ::2, 1] = even_odd[:, :, ::-1, 1]
    weight[:, :, 1, ::2] = odd_even[:, :, 1, ::-1]
    weight[:, :, 1, 1] = odd_odd[:, :, 1, 1]
    return weight
