"""What a series of measurements says: percentiles with confidence intervals, spread, drift.

Latencies are neither normal nor independent, so nothing here assumes the one, and the other is paid for. The interval of a
percentile comes from order statistics: the number of n independent values below the q-quantile is binomial(n, q), whatever
their distribution (David and Nagaraja 2003, chapter 7.1). Where values depend on those before them, n is the number of
independent values that would tell as much, from the autocorrelation of the ranks (Geyer 1992, initial monotone sequence).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Percentile:
    """A percentile by linear interpolation and its interval; None where the sample is too small to bound it."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Distribution:
    """One configuration's measurements, of all rounds together, in the unit of the samples."""

    runs: int
    independent: int  # as many independent runs would tell as much
    min: float
    mean: float
    cv: float  # standard deviation over mean
    drift: float  # median of the last third over that of the first, less 1
    spread: float  # of the rounds' medians: largest over smallest, less 1
    percentiles: dict[str, Percentile]


def describe(rounds: Sequence[Sequence[float]]) -> Distribution:
    """The distribution of positive measurements, round after round, each in the order in which they were made.

    Raises ValueError without a measurement.
    """
    series = np.concatenate([np.asarray(r, np.float64) for r in rounds]) if rounds else np.empty(0)
    if not len(series):
        raise ValueError("there is nothing to describe")
    independent = independent_runs(series)
    medians = [float(np.median(r)) for r in rounds if len(r)]
    return Distribution(
        runs=len(series),
        independent=independent,
        min=float(series.min()),
        mean=float(series.mean()),
        cv=float(series.std() / series.mean()),
        drift=drift(series),
        spread=max(medians) / min(medians) - 1,
        percentiles={f"{q:g}": percentile(series, q / 100, independent) for q in PERCENTILES},
    )


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


def drift(series: np.ndarray) -> float:
    """How far the median of the last third is from that of the first, as a share of the first; 0 for fewer than six values."""
    third = len(series) // 3
    return float(np.median(series[-third:]) / np.median(series[:third]) - 1) if third >= 2 else 0.0


def _binomial_cdf(n: int, q: float) -> np.ndarray:
    """P(X <= k) for k from 0 to n, X the number of successes in n trials of probability q."""
    k = np.arange(n)
    steps = np.log(n - k) - np.log(k + 1) + math.log(q) - math.log1p(-q)
    logs = np.concatenate([[0.0], np.cumsum(steps)]) + n * math.log1p(-q)
    return np.minimum(np.cumsum(np.exp(logs)), 1.0)
