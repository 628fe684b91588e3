"""The filter tables equal Daubechies' least asymmetric filters, computed from the roots of their polynomial."""

from itertools import pairwise, product
from math import comb

import numpy as np
import pytest

from stylert.train.augment.wavelets import SYM2, SYM6, band_filters


def least_asymmetric(moments: int) -> np.ndarray:
    """Among all real spectral factors of the Daubechies polynomial, the one with the most linear phase."""
    y = np.roots([comb(moments - 1 + k, k) for k in reversed(range(moments))])
    pairs = []
    for value in y[y.imag >= -1e-12]:
        z = np.roots([1, 4 * value - 2, 1])  # y = (2 - z - 1/z) / 4
        pairs.append([np.array([r]) if abs(value.imag) < 1e-9 else np.array([r, r.conj()]) for r in z])
    best, score = None, np.inf
    omega = np.linspace(0.01, 2.5, 400)
    for roots in product(*pairs):
        h = np.real(np.poly(np.concatenate([-np.ones(moments), *roots])))
        h /= np.linalg.norm(h) * np.sign(h.sum())
        phase = np.unwrap(np.angle(np.exp(-1j * np.outer(omega, np.arange(len(h)))) @ h))
        deviation = np.abs(phase - omega * (omega @ phase) / (omega @ omega)).max()
        if deviation < score - 1e-9:
            best, score = h, deviation
    return best


@pytest.mark.parametrize(("taps", "moments"), [(SYM2, 2), (SYM6, 6)])
def test_the_taps_equal_the_least_asymmetric_filter(taps, moments):
    expected = least_asymmetric(moments)
    assert min(np.abs(taps - expected).max(), np.abs(taps - expected[::-1]).max()) < 1e-6


@pytest.mark.parametrize("taps", [SYM2, SYM6])
def test_even_shifts_are_orthonormal(taps):
    for shift in range(0, len(taps), 2):
        assert taps[shift:] @ taps[: len(taps) - shift] == pytest.approx(float(shift == 0), abs=1e-10)


def test_the_bands_are_symmetric_add_up_to_the_identity_and_pass_their_octave():
    bands = band_filters()
    width = bands.shape[1]
    np.testing.assert_allclose(bands, bands[:, ::-1], atol=1e-12)
    np.testing.assert_allclose(bands.sum(0), np.arange(width) == width // 2, atol=1e-12)
    omega = np.linspace(0, np.pi, 2001)
    response = bands @ np.cos(np.outer(np.arange(width) - width // 2, omega))
    edges = [0, np.pi / 8, np.pi / 4, np.pi / 2, np.pi]
    for band, (low, high) in enumerate(pairwise(edges)):
        inside = (omega >= low) & (omega <= high)
        assert (response[band][inside] ** 2).sum() > 0.6 * (response[band] ** 2).sum()
        assert response[:, inside].mean(1).argmax() == band
