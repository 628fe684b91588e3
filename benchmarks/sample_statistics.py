"""Statistics of one series of measurements: percentiles with confidence intervals, variation and drift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stylert.core.statistics import Percentile, independent_runs, percentile

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)


@dataclass(frozen=True)
class Distribution:
    """Statistics of all rounds of one configuration, in the unit of the samples.

    Attributes:
        runs: Number of samples.
        independent: Number of independent samples that carry as much information.
        min: Smallest sample.
        mean: Mean of the samples.
        cv: Coefficient of variation: standard deviation over mean.
        drift: Median of the last third over median of the first third, minus 1.
        spread: Largest over smallest median of a round, minus 1.
        percentiles: By their name, such as `"99.9"`.
    """

    runs: int
    independent: int
    min: float
    mean: float
    cv: float
    drift: float
    spread: float
    percentiles: dict[str, Percentile]


def describe(rounds: Sequence[Sequence[float]]) -> Distribution:
    """Compute the statistics of positive samples.

    Args:
        rounds: The samples of each round, in the order of measurement.

    Raises:
        ValueError: There is no sample.
    """
    series = np.concatenate([np.asarray(r, np.float64) for r in rounds]) if rounds else np.empty(0)
    if not len(series):
        raise ValueError("there is nothing to describe: no round has a sample")
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
    """Median of the last third over median of the first third, minus 1. It is 0 for fewer than six samples."""
    third = len(series) // 3
    if third < 2:
        return 0.0
    return float(np.median(series[-third:]) / np.median(series[:third]) - 1)
