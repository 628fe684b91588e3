"""Whether two measurements of the same work differ, and by how much.

Runs within one process resemble each other more than runs of two processes do: memory lies elsewhere, the machine is in
another mood. So the round, a process of its own, is what counts as one observation (Kalibera and Jones 2013): Welch's t-test
on the logarithms of the rounds' medians, whose difference is the ratio. With fewer than three rounds on a side there is only
the series itself, and its blocks are drawn anew (moving-block bootstrap, Künsch 1989), which keeps the dependence of
neighbouring runs, but knows nothing of other processes: such an interval is too narrow, and says so in `method`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stylert.core.statistics import CONFIDENCE

MIN_ROUNDS = 3
DRAWS = 2000
#: Differences below this share are called the same: code that merely lies elsewhere in memory differs as much.
NEGLIGIBLE = 0.02


@dataclass(frozen=True)
class Difference:
    """Ratio of the second's median to the first's, its interval, and how likely chance alone makes such a ratio."""

    ratio: float
    low: float
    high: float
    p: float
    method: str


def compare(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> Difference:
    """The second measurement against the first, each given as rounds of positive samples."""
    if min(len(first), len(second)) >= MIN_ROUNDS:
        return _welch([float(np.median(r)) for r in first], [float(np.median(r)) for r in second])
    return _bootstrap(np.concatenate([np.asarray(r) for r in first]), np.concatenate([np.asarray(r) for r in second]))


def holm(probabilities: Sequence[float]) -> list[float]:
    """Probabilities adjusted for the number of comparisons (Holm 1979), so that twenty rows do not yield one false alarm."""
    order = np.argsort(probabilities, kind="stable")
    adjusted, largest = [0.0] * len(order), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * probabilities[index]))
        adjusted[index] = largest
    return adjusted


def verdict(difference: Difference, adjusted: float, better: str) -> str:
    """`faster`, `slower`, or that no difference is significant, for values of which the `better` ones are lower or higher."""
    if adjusted >= 1 - CONFIDENCE:
        return "no significant difference"
    if abs(difference.ratio - 1) < NEGLIGIBLE:
        return f"no difference above {NEGLIGIBLE:.0%}"
    return "faster" if (difference.ratio < 1) == (better == "lower") else "slower"


def student_p(t: float, freedom: float) -> float:
    """P(|T| > t) of Student's t-distribution with at least 2 degrees of freedom."""
    if not math.isfinite(t):
        return 0.0
    if freedom > 1000:
        return math.erfc(abs(t) / math.sqrt(2))
    # With t = sqrt(freedom) tan a the density is proportional to cos(a) ** (freedom - 1): smooth, on a finite interval.
    nodes, weights = _quadrature()
    start = math.atan(abs(t) / math.sqrt(freedom))
    half = (math.pi / 2 - start) / 2
    integral = half * float(weights @ np.cos(start + half * (nodes + 1)) ** (freedom - 1))
    scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(math.pi) / 2
    return min(1.0, 2 * math.exp(scale) * integral)


def student_quantile(confidence: float, freedom: float) -> float:
    """t such that |T| stays below it with probability `confidence`."""
    low, high = 0.0, 1.0
    while student_p(high, freedom) > 1 - confidence:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if student_p(middle, freedom) > 1 - confidence else (low, middle)
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
    reach = student_quantile(CONFIDENCE, freedom) * error
    p = student_p(distance / error, freedom)
    return Difference(math.exp(distance), math.exp(distance - reach), math.exp(distance + reach), p, method)


def _bootstrap(first: np.ndarray, second: np.ndarray) -> Difference:
    rng = np.random.Generator(np.random.Philox(0))  # the same files always compare alike
    logs = np.log(_block_medians(second, rng)) - np.log(_block_medians(first, rng))
    ratio = float(np.median(second) / np.median(first))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.exp(np.quantile(logs, [tail, 1 - tail]))
    # Twice the share of draws on the other side of 1; never 0, since the draws are finite.
    beyond = min(int((logs <= 0).sum()), int((logs >= 0).sum()))
    p = min(1.0, 2 * (beyond + 1) / (DRAWS + 1))
    return Difference(ratio, float(low), float(high), p, "block bootstrap within one process: other processes may differ more")


def _block_medians(series: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Medians of `DRAWS` series of blocks drawn from one series; blocks of twice the cube root of its length."""
    n = len(series)
    length = min(n, max(1, round(2 * n ** (1 / 3))))
    starts = rng.integers(0, n - length + 1, (DRAWS, math.ceil(n / length)))
    return np.array([np.median(series[(row[:, None] + np.arange(length)).ravel()[:n]]) for row in starts])
