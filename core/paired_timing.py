"""Measurements in alternation, and the ratio of two callables timed in this way.

A shared machine may be twice as slow from one minute to the next. Two calls made right after each other meet the same
conditions, so their ratio can be trusted where their times cannot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from stylert.core.statistics import Ratio, median_ratio

#: Least number of pairs, so that a 95 % interval exists, and largest number, for callables that are equally fast.
MIN_PAIRS, MAX_PAIRS = 9, 200


def paired_ratio(
    first: Callable[[], object], second: Callable[[], object], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> Ratio:
    """Measure the time of `first` over the time of `second`.

    Each measurement is two calls, and the second call is timed: the first one brings the network's own data back into
    the caches. The first measurement of each is dropped, because it also allocates memory. The order within a pair
    alternates.

    Args:
        first: Numerator.
        second: Denominator.
        seconds: Time for all pairs together, about.
        clock: Returns seconds.
    """

    def measure(run: Callable[[], object]) -> float:
        run()
        start = clock()
        run()
        return round(clock() - start, 9)  # a clock resolves a nanosecond at best

    for run in (first, second):
        measure(run)
    begin = clock()

    def another_pair(pairs: int) -> bool:
        return pairs < MIN_PAIRS or (clock() - begin < seconds and pairs < MAX_PAIRS)

    times = interleaved_times([partial(measure, first), partial(measure, second)], another_pair)
    return median_ratio([a / b for a, b in zip(*times, strict=True)])


def interleaved_times(measures: Sequence[Callable[[], float]], another_cycle: Callable[[int], bool]) -> list[list[float]]:
    """Measure several things in cycles. Every second cycle goes through them backwards.

    Args:
        measures: Each one makes one measurement and returns its time.
        another_cycle: Called with the number of finished cycles. Returns whether one more follows.

    Returns:
        The times of each, one per cycle.
    """
    times: list[list[float]] = [[] for _ in measures]
    cycle = 0
    while another_cycle(cycle):
        order = range(len(measures))
        for i in order if cycle % 2 == 0 else reversed(order):
            times[i].append(measures[i]())
        cycle += 1
    return times
