"""Percentiles of measurements, and how far they can be trusted.

Times are neither normal nor independent, so nothing here assumes the one, and the other is paid for. The interval of a
percentile comes from order statistics: the number of n independent values below the q-quantile is binomial(n, q), whatever
their distribution (David and Nagaraja 2003, chapter 7.1). Where values depend on those before them, n is the number of
independent values that would tell as much, from the autocorrelation of the ranks (Geyer 1992, initial monotone sequence).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Percentile:
    """A percentile by linear interpolation and its interval; None where the sample is too small to bound it."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Ratio:
    """The median of the ratios of so many pairs, and its interval of 95 %; None where they are too few to bound it."""

    value: float
    low: float | None
    high: float | None
    pairs: int

    @property
    def faster(self) -> bool:
        """Of the first's time over the second's: whether the first is faster by more than chance explains."""
        return self.high is not None and self.high < 1

    @property
    def inverse(self) -> Ratio:
        """The second over the first."""
        low, high = (None if v is None else 1 / v for v in (self.high, self.low))
        return Ratio(1 / self.value, low, high, self.pairs)

    def __str__(self) -> str:
        low, high = ("?" if v is None else f"{v:.2f}" for v in (self.low, self.high))
        return f"{self.value:.2f} [{low}, {high}]"


def percentile(series: np.ndarray, q: float, independent: int | None = None) -> Percentile:
    """The q-quantile of a series that tells as much as `independent` independent values (all, when None)."""
    ordered = np.sort(series)
    n, m = len(ordered), independent or len(ordered)
    low, high = interval_ranks(m, q)
    value = float(np.quantile(ordered, q))
    # Far out in the tail of a small sample the quantile surely lies beyond the values that interpolation stays between.
    return Percentile(
        value,
        min(value, float(ordered[(low - 1) * n // m])) if low >= 1 else None,
        max(value, float(ordered[min(math.ceil(high * n / m), n) - 1])) if high <= m else None,
    )


def interval_ranks(n: int, q: float, confidence: float = CONFIDENCE) -> tuple[int, int]:
    """Ranks l and u, from 1, such that the q-quantile lies between the l-th and the u-th of n sorted independent values.

    Each tail misses with at most half of what `confidence` leaves. l is 0, or u is n + 1, where no value is far enough out.
    """
    cumulative = _binomial_cdf(n, q)
    tail = (1 - confidence) / 2
    low = int(np.searchsorted(cumulative, tail))
    high = int(np.searchsorted(cumulative, 1 - tail))
    return low, min(high, n) + 1


def independent_runs(series: np.ndarray) -> int:
    """How many independent values tell as much as this series: its length over the integrated autocorrelation time of its
    ranks. Ranks, because one outlier would hide every other dependence.
    """
    n = len(series)
    _, index, counts = np.unique(series, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[index]
    ranks = ranks - ranks.mean()
    if n < 4 or not ranks.any():
        return n
    spectrum = np.fft.rfft(ranks, 2 * n)
    covariance = np.fft.irfft(spectrum * spectrum.conj())[:n]
    correlation = covariance / covariance[0]
    pairs = correlation[: n // 2 * 2].reshape(-1, 2).sum(1)
    ends = np.flatnonzero(pairs <= 0)
    pairs = np.minimum.accumulate(pairs[: ends[0] if len(ends) else None])
    return int(min(max(n / max(2 * float(pairs.sum()) - 1, 1.0), 1), n))


def median_ratio(ratios: Sequence[float]) -> Ratio:
    """Of ratios in the order in which they were measured; those that resemble the ones before them count for less."""
    series = np.asarray(ratios, np.float64)
    found = percentile(series, 0.5, independent_runs(series))
    return Ratio(found.value, found.low, found.high, len(series))


def _binomial_cdf(n: int, q: float) -> np.ndarray:
    """P(X <= k) for k from 0 to n, X the number of successes in n trials of probability q."""
    k = np.arange(n)
    steps = np.log(n - k) - np.log(k + 1) + math.log(q) - math.log1p(-q)
    logs = np.concatenate([[0.0], np.cumsum(steps)]) + n * math.log1p(-q)
    return np.minimum(np.cumsum(np.exp(logs)), 1.0)
