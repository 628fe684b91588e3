"""Percentiles and ratios of measurements, with 95 % confidence intervals.

Run times are not normal and not independent, so no formula here assumes either.

- The interval of a percentile comes from order statistics. The number of n independent values below the q-quantile is
  binomial(n, q), whatever their distribution (David and Nagaraja 2003, chapter 7.1).
- If neighbouring values depend on each other, n is the effective number of independent values, which is smaller. It
  follows from the autocorrelation of the ranks (Geyer 1992, initial monotone sequence).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Percentile:
    """A percentile by linear interpolation, with its interval. A bound is None if the sample is too small for it."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Ratio:
    """The median ratio of `pairs` pairs of measurements, with its interval. A bound is None if there are too few pairs."""

    value: float
    low: float | None
    high: float | None
    pairs: int

    @property
    def faster(self) -> bool:
        """Whether the numerator is the smaller time by more than chance: the whole interval lies below 1."""
        return self.high is not None and self.high < 1

    @property
    def inverse(self) -> Ratio:
        """The ratio with numerator and denominator exchanged."""
        low, high = (None if v is None else 1 / v for v in (self.high, self.low))
        return Ratio(1 / self.value, low, high, self.pairs)

    def __str__(self) -> str:
        low, high = ("?" if v is None else f"{v:.2f}" for v in (self.low, self.high))
        return f"{self.value:.2f} [{low}, {high}]"


def percentile(series: np.ndarray, q: float, independent: int | None = None) -> Percentile:
    """The q-quantile of a series, with its interval.

    Args:
        series: Measured values `[N]`, in any order.
        q: Between 0 and 1.
        independent: Effective number of independent values, from `independent_runs`. All N, if None.
    """
    ordered = np.sort(series)
    n, m = len(ordered), independent or len(ordered)
    low, high = interval_ranks(m, q)
    value = float(np.quantile(ordered, q))
    # In the tail of a small sample, interpolation may lie outside of the interval of the order statistics.
    return Percentile(
        value,
        min(value, float(ordered[(low - 1) * n // m])) if low >= 1 else None,
        max(value, float(ordered[min(math.ceil(high * n / m), n) - 1])) if high <= m else None,
    )


def interval_ranks(n: int, q: float, confidence: float = CONFIDENCE) -> tuple[int, int]:
    """Ranks l and u such that the q-quantile lies between the l-th and the u-th of n sorted independent values.

    Ranks count from 1. Each side misses the quantile with probability (1 - confidence) / 2 at most. l is 0, or u is
    n + 1, if no value of the sample is far enough out.
    """
    cumulative = _binomial_cdf(n, q)
    tail = (1 - confidence) / 2
    low = int(np.searchsorted(cumulative, tail))
    high = int(np.searchsorted(cumulative, 1 - tail))
    return low, min(high, n) + 1


def independent_runs(series: np.ndarray) -> int:
    """Effective number of independent values in a series: its length over its integrated autocorrelation time.

    The autocorrelation is that of the ranks, because a single outlier would hide all other dependence.

    Args:
        series: Measured values `[N]` in the order of measurement.

    Returns:
        A number from 1 to N.
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
    """The median of ratios, with an interval that accounts for their dependence.

    Args:
        ratios: In the order of measurement.
    """
    series = np.asarray(ratios, np.float64)
    found = percentile(series, 0.5, independent_runs(series))
    return Ratio(found.value, found.low, found.high, len(series))


def _binomial_cdf(n: int, q: float) -> np.ndarray:
    """P(X <= k) for k from 0 to n, where X is binomial(n, q)."""
    k = np.arange(n)
    steps = np.log(n - k) - np.log(k + 1) + math.log(q) - math.log1p(-q)
    logs = np.concatenate([[0.0], np.cumsum(steps)]) + n * math.log1p(-q)
    return np.minimum(np.cumsum(np.exp(logs)), 1.0)
