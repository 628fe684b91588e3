"""The 8-bit number formats of the exported networks: their limits, and rounding to them."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np

from stylert.plugins.constants import LARGEST_8_BIT_VALUE

#: The greatest number of each format. Symmetric int8 leaves -128 out.
INT8_MAX, UINT8_MAX, FP8_MAX = int(LARGEST_8_BIT_VALUE["int8"]), 255, LARGEST_8_BIT_VALUE["fp8"]

#: E4M3 (Micikevicius et al. 2022): no infinities, one NaN.
FP8 = ml_dtypes.float8_e4m3fn

#: Rounds numbers to the nearest that a format holds, and clips them to its limits.
RoundToFormat = Callable[[np.ndarray], np.ndarray]

#: Rounds a kernel `[O, I, k, k]` with scales `[O]` to a format. The result times the scales is about the kernel.
RoundKernel = Callable[[np.ndarray, np.ndarray, RoundToFormat], np.ndarray]


def to_int8(x: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(x), -INT8_MAX, INT8_MAX).astype(np.int8)


def to_fp8(x: np.ndarray) -> np.ndarray:
    return np.clip(x, -FP8_MAX, FP8_MAX).astype(FP8)


def round_to_nearest(kernel: np.ndarray, scale: np.ndarray, to_format: RoundToFormat) -> np.ndarray:
    """The `RoundKernel` that takes the nearest number for each weight."""
    return to_format(kernel / scale[:, None, None, None].astype(np.float64))
