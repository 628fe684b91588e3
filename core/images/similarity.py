"""Similarity of two images: PSNR and SSIM (Wang et al. 2004, equation 13)."""

from __future__ import annotations

import numpy as np

#: PSNR of identical images, in place of infinity. It is the largest value that is returned.
IDENTICAL_DB = 100.0

# Window and constants of the paper, for values from 0 to 255.
SIGMA, TAPS = 1.5, 11
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def psnr(image: np.ndarray, reference: np.ndarray, peak: float = 255.0) -> float:
    """PSNR of two images in dB, `20 log10(peak / rms error)`, at most `IDENTICAL_DB`.

    Args:
        image: Array of any shape.
        reference: Array of the same shape.
        peak: Largest possible value.
    """
    return float(psnr_each(image[None], reference[None], peak)[0])


def psnr_each(images: np.ndarray, references: np.ndarray, peak: float = 255.0) -> np.ndarray:
    """PSNR of each pair of images, as `psnr`.

    Args:
        images: Array `[N, ...]`.
        references: Array of the same shape.
        peak: Largest possible value.

    Returns:
        float64 `[N]`, in dB.
    """
    error = np.square(images.astype(np.float64) - references.astype(np.float64)).reshape(len(images), -1).mean(1)
    least = peak**2 / 10 ** (IDENTICAL_DB / 10)
    return 10 * np.log10(peak**2 / np.maximum(error, least))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Mean SSIM of two images `[H, W, C]` with values from 0 to 255. Identical images have 1, which is the maximum.

    Each channel is compared by itself, at the positions where the Gaussian window lies inside the image. In an image
    that is smaller than the window, the window shrinks to the size of the image.
    """
    a, b = (x.astype(np.float64) for x in (a, b))
    mean_a, mean_b = _blur(a), _blur(b)
    var_a, var_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    return float((luminance * (2 * covariance + C2) / (var_a + var_b + C2)).mean())


def _blur(x: np.ndarray) -> np.ndarray:
    for axis in (0, 1):
        taps = min(TAPS, x.shape[axis])
        window = np.exp(-np.square(np.arange(taps) - (taps - 1) / 2) / (2 * SIGMA**2))
        span = x.shape[axis] - taps + 1
        parts = [g * np.take(x, range(i, i + span), axis) for i, g in enumerate(window / window.sum())]
        x = np.sum(parts, axis=0)
    return x
