"""GPTQ (Frantar et al. 2023): weights are rounded one by one, and each makes up for the errors of the former ones.

The inputs of a convolution are correlated. Neighbouring pixels are alike, and a leaky ReLU leaves a mean. So the errors
of weights that meet similar inputs can cancel.

Let H be the second moments of the patches that a convolution reads, and H = R Rᵀ with R upper triangular. The squared
error of an output channel with weights w, rounded to ŵ, is |(w - ŵ) R|². Rounding one column after another is Babai's
nearest-plane algorithm.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np

from stylert.export.phase_weights import merge_phases, phase_weights
from stylert.export.quantization.number_formats import RoundToFormat

#: Moments are of 3x3 patches. Every kernel that is rounded covers such a patch or a part of it.
TAPS = 9

#: Patches that are sampled for each column of the moments, over all samples.
PATCHES_PER_COLUMN = 4

#: This share of the mean power is added to the power of every input, so that weights do not rely on chance
#: correlations.
DAMPING = 0.01

#: Columns that are rounded one by one. Their errors reach all later columns in one matrix product.
BLOCK = 128

SEED = 0


class PatchMoments:
    """Second moments of the 3x3 patches of images, estimated from random patches.

    Args:
        channels: Channels of the images.
        samples: About how many images will be added.

    Attributes:
        matrix: float32 `[9 C, 9 C]`, the taps innermost. It is the sum over the images of each image's mean.
    """

    def __init__(self, channels: int, samples: int) -> None:
        size = TAPS * channels
        self.matrix = np.zeros((size, size), np.float32)
        self._patches_per_image = math.ceil(PATCHES_PER_COLUMN * size / max(samples, 1))
        self._rng = np.random.default_rng(SEED)

    def add(self, images: np.ndarray) -> None:
        """Add images `[N, C, H, W]`. Pixels outside an image are zero."""
        height, width = images.shape[2:]
        for image in images:
            padded = np.pad(image, ((0, 0), (1, 1), (1, 1)))
            y, x = np.divmod(self._rng.permutation(height * width)[: self._patches_per_image], width)
            taps = [padded[:, y + dy, x + dx] for dy in range(3) for dx in range(3)]
            patches = np.stack(taps, 1).reshape(len(self.matrix), -1)
            self.matrix += patches @ patches.T / np.float32(patches.shape[1])


class GptqRounder:
    """Rounds the kernels of one layer by the moments of its input. A kernel that comes again is not computed again."""

    def __init__(self, moments: PatchMoments) -> None:
        self._moments = moments
        self._rounded: dict[bytes, np.ndarray] = {}

    def __call__(self, kernel: np.ndarray, scale: np.ndarray, to_format: RoundToFormat, upsampling: bool = False) -> np.ndarray:
        """The `RoundKernel` of this layer.

        Args:
            kernel: `[O, I, k, k]`, k from 1 to 3.
            scale: `[O]`.
            to_format: Rounds to the number format.
            upsampling: Whether the kernel is that of a 2x transposed convolution.

        Returns:
            `[O, I, k, k]` in the number format.
        """
        key = hashlib.sha256(f"{to_format.__name__} {upsampling}".encode() + kernel.tobytes() + scale.tobytes()).digest()
        if key not in self._rounded:
            if upsampling:
                self._rounded[key] = merge_phases(self._round(phase_weights(kernel), np.tile(scale, 4), to_format))
            else:
                self._rounded[key] = self._round(kernel, scale, to_format)
        return self._rounded[key]

    def _round(self, kernel: np.ndarray, scale: np.ndarray, to_format: RoundToFormat) -> np.ndarray:
        channels, size = kernel.shape[1:3]
        taps = (kernel / scale[:, None, None, None].astype(np.float64)).reshape(len(kernel), channels, -1)
        moment_index = np.arange(TAPS * channels).reshape(channels, 3, 3)[:, :size, :size].reshape(channels, -1)
        # Some taps of a phase are zero by construction and stay zero. Output channels with the same zeros are rounded
        # together.
        nonzero = np.abs(taps).max(1) > 0
        rounded = to_format(np.zeros(taps.shape))
        for pattern in np.unique(nonzero, axis=0):
            if not pattern.any():
                continue
            outputs = (nonzero == pattern).all(1)
            part = np.ix_(outputs, np.arange(channels), pattern)
            columns = moment_index[:, pattern].reshape(-1)
            weights = taps[part]
            matrix = self._moments.matrix[np.ix_(columns, columns)]
            rounded[part] = gptq(weights.reshape(len(weights), -1), matrix, to_format).reshape(weights.shape)
        return rounded.reshape(kernel.shape)


def gptq(weights: np.ndarray, moments: np.ndarray, to_format: RoundToFormat) -> np.ndarray:
    """Round weights so that their products with the inputs change little.

    Args:
        weights: `[O, K]`, in units of the format's step.
        moments: `[K, K]`, the second moments of the inputs.
        to_format: Rounds to the number format.

    Returns:
        `[O, K]` in the number format.
    """
    power = np.diag(moments)
    damping = DAMPING * power.mean() or 1.0
    order = np.argsort(-power, kind="stable")  # the strongest input first: all the others can still make up for its error
    damped = moments[np.ix_(order, order)].astype(np.float64)
    damped[np.diag_indices_from(damped)] += damping
    r = np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]
    r /= np.diag(r).copy()  # each column in units of its diagonal: an error then counts in weights of that column
    r = r.astype(np.float32)
    exact = weights[:, order].astype(np.float32)
    rounded = np.empty_like(exact)
    errors = np.empty_like(exact)
    for start in range(0, exact.shape[1], BLOCK):
        stop = min(start + BLOCK, exact.shape[1])
        from_earlier_blocks = errors[:, :start] @ r[:start, start:stop]
        for i in range(start, stop):
            target = exact[:, i] + from_earlier_blocks[:, i - start] + errors[:, start:i] @ r[start:i, i]
            rounded[:, i] = to_format(target)
            errors[:, i] = exact[:, i] - rounded[:, i]
    in_input_order = np.empty_like(rounded)
    in_input_order[:, order] = rounded
    return to_format(in_input_order)
