"""Two ways to do the same, timed in turn: on a machine that others use too, only what ran beside each other compares."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

#: Pairs at least, so that an interval of 95 % exists, and at most, when the two are too close to tell apart.
LEAST_PAIRS, MOST_PAIRS = 9, 200


@dataclass(frozen=True)
class Ratio:
    """Time of the first over time of the second: median of the pairs, with its interval of 95 %."""

    value: float
    low: float
    high: float
    pairs: int

    @property
    def faster(self) -> bool:
        """Whether the first is faster by more than chance explains."""
        return self.high < 1


def ratio_of(first: list[float], second: list[float]) -> Ratio:
    """Of paired times: the median ratio and the order statistics that hold it with 95 % (by the sign test)."""
    ratios = np.sort(np.array(first) / np.array(second))
    n = len(ratios)
    # The interval from the k-th smallest to the k-th greatest misses the median with probability 2 P(Binomial(n, 1/2) < k).
    tail, k = 0.0, 0
    while tail + math.comb(n, k) / 2**n <= 0.025:
        tail += math.comb(n, k) / 2**n
        k += 1
    low, high = (float(ratios[k - 1]), float(ratios[n - k])) if k else (0.0, math.inf)
    return Ratio(float(np.median(ratios)), low, high, n)


def paired_ratio(
    first: Callable[[], object], second: Callable[[], object], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> Ratio:
    """Call the two in turn, each once before, for about `seconds`; the order within a pair alternates."""
    runs = (first, second)
    for run in runs:
        run()
    times: tuple[list[float], list[float]] = ([], [])
    begin = clock()
    while len(times[0]) < LEAST_PAIRS or (clock() - begin < seconds and len(times[0]) < MOST_PAIRS):
        for i in (0, 1) if len(times[0]) % 2 == 0 else (1, 0):
            start = clock()
            runs[i]()
            times[i].append(clock() - start)
    return ratio_of(*times)
