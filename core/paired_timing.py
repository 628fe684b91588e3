"""Two ways to do the same, timed in turn: on a machine that others use too, only what ran beside each other compares."""

from __future__ import annotations

import time
from collections.abc import Callable

from stylert.core.statistics import Ratio, median_ratio

#: Pairs at least, so that an interval of 95 % exists, and at most, when the two are too close to tell apart.
LEAST_PAIRS, MOST_PAIRS = 9, 200


def paired_ratio(
    first: Callable[[], object], second: Callable[[], object], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> Ratio:
    """Time of the first over that of the second. They take turns for about `seconds`, and the order within a pair alternates.

    A turn is two calls, of which the second counts: behind the other's call a network finds the other's data in the caches, which
    costs it up to a tenth of its time, and it is meant to run alone. The first turn of each, in which memory is taken, does not
    count at all.
    """

    def turn(run: Callable[[], object]) -> float:
        run()
        start = clock()
        run()
        return round(clock() - start, 9)  # no clock tells less than a nanosecond

    runs = (first, second)
    for run in runs:
        turn(run)
    times: tuple[list[float], list[float]] = ([], [])
    begin = clock()
    while len(times[0]) < LEAST_PAIRS or (clock() - begin < seconds and len(times[0]) < MOST_PAIRS):
        for i in (0, 1) if len(times[0]) % 2 == 0 else (1, 0):
            times[i].append(turn(runs[i]))
    return median_ratio([a / b for a, b in zip(*times, strict=True)])
