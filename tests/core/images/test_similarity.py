"""SSIM against SciPy's Gaussian filter, and its defining properties."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from stylert.core.images.similarity import C1, C2, SIGMA, TAPS, ssim


def by_scipy(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)

    def blur(x: np.ndarray) -> np.ndarray:
        edge = TAPS // 2
        full = gaussian_filter(x, (SIGMA, SIGMA, 0), radius=(edge, edge, 0))
        return full[edge:-edge, edge:-edge]

    ma, mb = blur(a), blur(b)
    va, vb, cov = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
    return float(((2 * ma * mb + C1) * (2 * cov + C2) / ((ma**2 + mb**2 + C1) * (va + vb + C2))).mean())


def test_it_is_scipys(rng: np.random.Generator) -> None:
    a = rng.integers(0, 256, (24, 31, 3), dtype=np.uint8)
    b = np.clip(a + rng.normal(0, 20, a.shape), 0, 255)
    assert ssim(a, b) == pytest.approx(by_scipy(a, b), rel=1e-9)


@pytest.mark.parametrize("size", [4, 8, 11, 16])
def test_identical_images_have_one_and_order_does_not_matter(rng: np.random.Generator, size: int) -> None:
    a, b = rng.integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    assert ssim(a, a) == pytest.approx(1)
    assert ssim(a, b) == pytest.approx(ssim(b, a))
    assert ssim(a, b) < 1
