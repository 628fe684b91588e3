"""Orthogonal wavelet filters, the low-pass halves, with unit norm: `sum h[k] h[k + 2 m]` is 1 for m = 0 and 0 otherwise."""

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
    """`[4, 43]` float64: zero-phase filters of the bands 0 to π/8, to π/4, to π/2, to π. Together they are the identity.

    `P(z) = H(z) H(1/z) / 2` of SYM2 is a half-band filter, `P(z) + P(-z) = 1`. The tree `P(z) P(z^2) P(z^4)` passes ever
    lower halves, and a band is what one level passes and the next does not (Karras et al. 2020b, appendix B).
    """
    half = np.convolve(SYM2, SYM2[::-1]) / 2
    lows = [np.ones(1)]
    for level in range(3):
        spread = np.zeros((len(half) - 1) * 2**level + 1)
        spread[:: 2**level] = half
        lows.append(np.convolve(lows[-1], spread))
    width = len(lows[-1])
    same = [np.pad(f, (width - len(f)) // 2) for f in lows]
    return np.stack([same[3], same[2] - same[3], same[1] - same[2], same[0] - same[1]])
