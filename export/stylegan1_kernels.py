"""The kernels of StyleGAN1's upsampling layers in the forms of their plan, as arrays.

A layer upsamples to the nearest neighbour and then convolves with 3x3 taps. Both forms do it in one convolution of the smaller image.
"""

from __future__ import annotations

import numpy as np

from stylert.export.quantization.number_formats import RoundKernel, RoundToFormat


def transposed_kernel(weight: np.ndarray) -> np.ndarray:
    """`[O, I, 3, 3]` behind nearest-neighbour upsampling as the `[O, I, 4, 4]` of a stride-2 transposed convolution.

    Each input pixel becomes four pixels of the same value. So its contribution is the sum of four shifted kernels.
    """
    flipped = weight[:, :, ::-1, ::-1]
    wide = np.pad(flipped, [(0, 0), (0, 0), (1, 1), (1, 1)])
    return wide[:, :, 1:, 1:] + wide[:, :, :-1, 1:] + wide[:, :, 1:, :-1] + wide[:, :, :-1, :-1]


#: Taps of the transposed kernel in the two pixels between neighbouring inputs, for the former and the latter input.
_PHASE_TAPS = ((2, 0), (3, 1))


def phase_kernels(weight: np.ndarray) -> np.ndarray:
    """`[O, I, 3, 3]` behind nearest-neighbour upsampling as four 2x2 kernels, phase-major, `[4 O, I, 2, 2]`.

    On each axis, the two phases of position j are the output pixels 2 j - 1 and 2 j. Both lie between the inputs j - 1 and j.
    """
    return _phases(transposed_kernel(weight))


def _phases(wide: np.ndarray) -> np.ndarray:
    phases = [wide[:, :, _PHASE_TAPS[y]][:, :, :, _PHASE_TAPS[x]] for y in (0, 1) for x in (0, 1)]
    return np.concatenate(phases)


def round_phases(rounder: RoundKernel, kernel: np.ndarray, scale: np.ndarray, to_format: RoundToFormat) -> np.ndarray:
    """A `RoundKernel` of transposed kernels `[O, I, 4, 4]`, by one of their phases `[4 O, I, 2, 2]`."""
    rounded = rounder(_phases(kernel), np.tile(scale, 4), to_format)
    wide = np.empty(kernel.shape, rounded.dtype)
    for i, part in enumerate(rounded.reshape(4, len(kernel), *rounded.shape[1:])):
        y, x = divmod(i, 2)
        wide[np.ix_(range(kernel.shape[0]), range(kernel.shape[1]), _PHASE_TAPS[y], _PHASE_TAPS[x])] = part
    return wide
