"""Wavelet filters of the augmentations: SYM2, SYM6, and a bank of four frequency bands.

`band_filters` makes the bank from SYM2. `resampling.py` uses SYM6. A low-pass filter h here has unit norm:
`sum_k h[k] h[k + 2 m]` is 1 for m = 0, and 0 for every other m.
"""

from __future__ import annotations

import numpy as np

#: Daubechies' least asymmetric filters (Daubechies 1992, table 6.3) of 4 and 12 taps.
SYM2 = np.array([-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025])
SYM6 = np.array(
    [
        0.015404109327027373,
        0.0034907120842174702,
        -0.11799011114819057,
        -0.048311742585633,
        0.4910559419267466,
        0.787641141030194,
        0.3379294217276218,
        -0.07263752278646252,
        -0.021060292512300564,
        0.04472490177066578,
        0.0017677118642428036,
        -0.007800708325034148,
    ]
)


def band_filters() -> np.ndarray:
    """Zero-phase filters of four frequency bands, which add up to the identity (Karras et al. 2020b, appendix B).

    `P(z) = H(z) H(1/z) / 2` of SYM2 is a half-band filter: `P(z) + P(-z) = 1`. The low-passes `P(z)`, `P(z) P(z^2)` and
    `P(z) P(z^2) P(z^4)` pass the lower half, quarter and eighth of the spectrum. The lowest band is the last of these.
    Each other band is the difference of two neighbours in the series identity, half, quarter, eighth.

    Returns:
        float64 `[4, 43]`, for the bands 0 to π/8, π/8 to π/4, π/4 to π/2, and π/2 to π.
    """
    half_band = np.convolve(SYM2, SYM2[::-1]) / 2
    low_passes = [np.ones(1)]
    for level in range(3):
        dilated = np.zeros((len(half_band) - 1) * 2**level + 1)
        dilated[:: 2**level] = half_band
        low_passes.append(np.convolve(low_passes[-1], dilated))
    width = len(low_passes[-1])
    full, half, quarter, eighth = (np.pad(f, (width - len(f)) // 2) for f in low_passes)
    return np.stack([eighth, quarter - eighth, half - quarter, full - half])
