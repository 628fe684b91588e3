"""Which 8-bit number each weight takes: the one with which the convolution errs least, where that is not the nearest.

What a convolution reads is far from white: neighbouring pixels resemble each other, and a leaky ReLU leaves a mean. So errors of
weights that meet similar values can cancel. One weight after another is rounded, each where it makes up best for the errors of those
before it (GPTQ, Frantar et al. 2023). With H, the second moments of the patches that the convolution reads, as R Rᵀ, R upper
triangular, the squared error of an output channel is |(w - ŵ) R|², and to choose the columns in turn is Babai's nearest plane.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import ml_dtypes
import numpy as np

from stylert.export.phases import merge_phases, phase_weights

#: The greatest integer, symmetric, and the greatest E4M3 number.
INT8_MAX, FP8_MAX = 127, 448.0

TAPS = 9  # of the patches: every kernel that is rounded covers 3x3 pixels or less of them
PATCHES = 4  # for each column of the moments, over all samples
DAMPING = 0.01  # of the mean power, added to every input's, so that weights do not rely on what few samples happen to share
BLOCK = 128  # columns rounded one by one; those behind them learn of their errors in one product
SEED = 0


#: E4M3 without infinities, one NaN.
FP8 = ml_dtypes.float8_e4m3fn

#: Numbers to the nearest that 8 bits hold.
Narrow = Callable[[np.ndarray], np.ndarray]


def to_int8(x: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(x), -INT8_MAX, INT8_MAX).astype(np.int8)


def to_fp8(x: np.ndarray) -> np.ndarray:
    return np.clip(x, -FP8_MAX, FP8_MAX).astype(FP8)


def nearest(kernel: np.ndarray, scale: np.ndarray, narrow: Narrow) -> np.ndarray:
    """`[O, I, k, k]` over `scale` `[O]`, each by itself."""
    return narrow(kernel / scale[:, None, None, None].astype(np.float64))


class PatchMoments:
    """Second moments of the 3x3 patches in images of `channels`, over about `samples` of them: float32 `[9 C, 9 C]`, taps innermost."""

    def __init__(self, channels: int, samples: int) -> None:
        size = TAPS * channels
        self.matrix = np.zeros((size, size), np.float32)
        self._each = math.ceil(PATCHES * size / max(samples, 1))
        self._rng = np.random.default_rng(SEED)

    def add(self, values: np.ndarray) -> None:
        """`[N, C, H, W]`, zero outside, at random places."""
        height, width = values.shape[2:]
        for sample in values:
            framed = np.pad(sample, ((0, 0), (1, 1), (1, 1)))
            pixels = height * width
            y, x = np.divmod(self._rng.permutation(pixels)[: self._each], width)
            patches = np.stack([framed[:, y + dy, x + dx] for dy in range(3) for dx in range(3)], 1)
            rows = patches.reshape(len(self.matrix), -1)
            self.matrix += rows @ rows.T / np.float32(rows.shape[1])


class Rounding:
    """Rounds the kernels of one layer, whatever its form; one that comes again is remembered."""

    def __init__(self, moments: PatchMoments) -> None:
        self._moments = moments
        self._known: dict[bytes, np.ndarray] = {}

    def __call__(self, kernel: np.ndarray, scale: np.ndarray, narrow: Narrow, upsampling: bool = False) -> np.ndarray:
        """`[O, I, k, k]` over `scale` `[O]`, narrow; k is 1 to 3. An `upsampling` kernel is that of a 2x transposed convolution."""
        key = hashlib.sha256(f"{narrow.__name__} {upsampling}".encode() + kernel.tobytes() + scale.tobytes()).digest()
        if key not in self._known:
            if upsampling:
                self._known[key] = merge_phases(self._round(phase_weights(kernel), np.tile(scale, 4), narrow))
            else:
                self._known[key] = self._round(kernel, scale, narrow)
        return self._known[key]

    def _round(self, kernel: np.ndarray, scale: np.ndarray, narrow: Narrow) -> np.ndarray:
        channels, size = kernel.shape[1:3]
        taps = (kernel / scale[:, None, None, None].astype(np.float64)).reshape(len(kernel), channels, -1)
        inputs = np.arange(TAPS * channels).reshape(channels, 3, 3)[:, :size, :size].reshape(channels, -1)
        # A phase has taps that are zero by construction, and stay zero: channels with the same ones are rounded together.
        present = np.abs(taps).max(1) > 0
        rounded = narrow(np.zeros(taps.shape))
        for pattern in np.unique(present, axis=0):
            if pattern.any():
                part = np.ix_((present == pattern).all(1), np.arange(channels), pattern)
                columns = inputs[:, pattern].reshape(-1)
                weights = taps[part]
                found = round_in_turn(weights.reshape(len(weights), -1), self._moments.matrix[np.ix_(columns, columns)], narrow)
                rounded[part] = found.reshape(weights.shape)
        return rounded.reshape(kernel.shape)


def round_in_turn(weights: np.ndarray, moments: np.ndarray, narrow: Narrow) -> np.ndarray:
    """Narrow numbers near `weights` `[O, K]`, whose products with inputs of second moments `[K, K]` differ little."""
    power = np.diag(moments)
    damping = DAMPING * power.mean() or 1.0
    order = np.argsort(-power, kind="stable")  # what weighs most first, while all the others can still make up for it
    damped = moments[np.ix_(order, order)].astype(np.float64)
    damped[np.diag_indices_from(damped)] += damping
    r = np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]
    r /= np.diag(r).copy()  # columns over their diagonal: in units of the weight that is chosen
    r = r.astype(np.float32)
    wanted = weights[:, order].astype(np.float32)
    found = np.empty_like(wanted)
    errors = np.empty_like(wanted)
    for start in range(0, wanted.shape[1], BLOCK):
        stop = min(start + BLOCK, wanted.shape[1])
        owed = errors[:, :start] @ r[:start, start:stop]
        for i in range(start, stop):
            target = wanted[:, i] + owed[:, i - start] + errors[:, start:i] @ r[start:i, i]
            found[:, i] = narrow(target)
            errors[:, i] = wanted[:, i] - found[:, i]
    rounded = np.empty_like(found)
    rounded[:, order] = found
    return narrow(rounded)
