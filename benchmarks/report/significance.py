"""The ratio of two measurements of the same work, with its confidence interval and its significance.

Runs of one process resemble each other more than runs of two processes. So one round, which is one process, is one observation
(Kalibera and Jones 2013). The test is Welch's t-test on the logarithms of the rounds' medians:

    ratio = exp(mean(log(medians of the second)) - mean(log(medians of the first)))

With fewer than three rounds on a side, the interval comes from a moving-block bootstrap of the runs (Künsch 1989). It keeps the
dependence of neighbouring runs, but it is too narrow, because it knows a single process only. `method` says so. Of a long series it
takes every k-th run, so that many runs take no more time. The interval then is wider, never narrower.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stylert.core.statistics import CONFIDENCE

#: Least number of rounds on each side for the t-test.
MIN_ROUNDS = 3
#: Number of bootstrap draws.
DRAWS = 2000
#: Most runs of a series that the bootstrap draws from.
MAX_SERIES = 10_000
#: Drawn values that are in memory together.
VALUES_AT_ONCE = 2**20
#: Smaller differences do not count. The placement of code in memory alone makes differences of this size.
NEGLIGIBLE = 0.02


@dataclass(frozen=True)
class Difference:
    """Difference of two measurements.

    Attributes:
        ratio: The second's median over the first's.
        low: Lower end of the 95 % interval of the ratio.
        high: Upper end of the interval.
        p: Probability of a ratio at least as far from 1 if the two do not differ.
        method: The statistical method.
    """

    ratio: float
    low: float
    high: float
    p: float
    method: str


def compare(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]], max_series: int = MAX_SERIES) -> Difference:
    """Compare two measurements.

    Args:
        first: The rounds of the first measurement, each a list of positive samples.
        second: The rounds of the second measurement.
        max_series: Most runs of each that a bootstrap draws from.
    """
    if min(len(first), len(second)) >= MIN_ROUNDS:
        return _welch([float(np.median(r)) for r in first], [float(np.median(r)) for r in second])
    a, b = (np.concatenate([np.asarray(r, np.float64) for r in rounds]) for rounds in (first, second))
    return _bootstrap(a, b, max_series)


def holm(probabilities: Sequence[float]) -> list[float]:
    """Adjust probabilities for the number of comparisons (Holm 1979), in the same order.

    Without it, one of twenty rows would seem to differ by chance.
    """
    order = np.argsort(probabilities, kind="stable")
    adjusted, largest = [0.0] * len(order), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * probabilities[index]))
        adjusted[index] = largest
    return adjusted


def outcome(difference: Difference, adjusted: float, better: str) -> str:
    """The difference in words: `faster`, `slower`, or that there is none.

    Args:
        difference: Of the second measurement to the first.
        adjusted: Its probability after `holm`.
        better: `lower` if lower values are better, or `higher`.
    """
    if adjusted >= 1 - CONFIDENCE:
        return "no significant difference"
    if abs(difference.ratio - 1) < NEGLIGIBLE:
        return f"no difference above {NEGLIGIBLE:.0%}"
    return "faster" if (difference.ratio < 1) == (better == "lower") else "slower"


def student_p(t: float, freedom: float) -> float:
    """P(|T| > t) for Student's t-distribution. `freedom` is the degrees of freedom, at least 2."""
    if not math.isfinite(t):
        return 0.0
    if freedom > 1000:
        return math.erfc(abs(t) / math.sqrt(2))
    # With t = sqrt(freedom) tan(a), the density is proportional to cos(a) ** (freedom - 1) on a finite interval.
    nodes, weights = _quadrature()
    start = math.atan(abs(t) / math.sqrt(freedom))
    half = (math.pi / 2 - start) / 2
    integral = half * float(weights @ np.cos(start + half * (nodes + 1)) ** (freedom - 1))
    scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(math.pi) / 2
    return min(1.0, 2 * math.exp(scale) * integral)


def student_quantile(confidence: float, freedom: float) -> float:
    """The t for which P(|T| < t) equals `confidence`, for Student's t-distribution."""
    low, high = 0.0, 1.0
    while student_p(high, freedom) > 1 - confidence:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        if student_p(middle, freedom) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


@functools.cache
def _quadrature() -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(100)


def _welch(first: Sequence[float], second: Sequence[float]) -> Difference:
    a, b = np.log(first), np.log(second)
    va, vb = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    distance, error = float(b.mean() - a.mean()), math.sqrt(va + vb)
    method = f"Welch's t-test on the medians of {len(a)} and {len(b)} rounds"
    if error == 0:
        ratio = math.exp(distance)
        return Difference(ratio, ratio, ratio, 1.0 if distance == 0 else 0.0, method)
    freedom = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    half_width = student_quantile(CONFIDENCE, freedom) * error
    p = student_p(distance / error, freedom)
    return Difference(math.exp(distance), math.exp(distance - half_width), math.exp(distance + half_width), p, method)


def _bootstrap(first: np.ndarray, second: np.ndarray, max_series: int) -> Difference:
    rng = np.random.Generator(np.random.Philox(0))  # the same files give the same result
    a, b = (series[:: math.ceil(len(series) / max_series)] for series in (first, second))
    logs = np.log(_block_medians(b, rng)) - np.log(_block_medians(a, rng))
    ratio = float(np.median(second) / np.median(first))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.exp(np.quantile(logs, [tail, 1 - tail]))
    # Twice the share of draws on the other side of ratio 1. One is added, because a finite number of draws cannot show p = 0.
    opposite = min(int((logs <= 0).sum()), int((logs >= 0).sum()))
    p = min(1.0, 2 * (opposite + 1) / (DRAWS + 1))
    return Difference(ratio, float(low), float(high), p, "block bootstrap within one process: other processes may differ more")


def _block_medians(series: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The medians of `DRAWS` resampled series. A block has about twice the cube root of the series' length."""
    n = len(series)
    length = min(n, max(1, round(2 * n ** (1 / 3))))
    starts = rng.integers(0, n - length + 1, (DRAWS, math.ceil(n / length)))
    medians = []
    for some in np.array_split(starts, math.ceil(DRAWS * n / VALUES_AT_ONCE)):
        positions = (some[:, :, None] + np.arange(length)).reshape(len(some), -1)[:, :n]
        medians.append(np.median(series[positions], axis=1))
    return np.concatenate(medians)
