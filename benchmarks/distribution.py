"""What a series of measurements says: percentiles with confidence intervals, spread, drift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stylert.core.statistics import Percentile, independent_runs, percentile

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)


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


def drift(series: np.ndarray) -> float:
    """How far the median of the last third is from that of the first, as a share of the first; 0 for fewer than six values."""
    third = len(series) // 3
    return float(np.median(series[-third:]) / np.median(series[:third]) - 1) if third >= 2 else 0.0
