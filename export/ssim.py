"""Structural similarity of two images (Wang et al. 2004, equation 13)."""

from __future__ import annotations

import numpy as np

#: The paper's window and constants, for values from 0 to 255.
SIGMA, TAPS = 1.5, 11
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Mean SSIM of images `[H, W, C]` on the 0 to 255 scale: at most 1, which is identical.

    Each channel is compared by itself, over the positions where the Gaussian window lies inside the image; in images smaller
    than the window it has their size.
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
