"""Two callables timed in alternation, as one ratio.

A shared machine may be twice as slow from one minute to the next. Two calls made right after each other meet the same
conditions, so their ratio can be trusted where their times cannot.
"""

from __future__ import annotations

import time
from collections.abc import Callable

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

    runs = (first, second)
    for run in runs:
        measure(run)
    times: tuple[list[float], list[float]] = ([], [])
    begin = clock()
    while len(times[0]) < MIN_PAIRS or (clock() - begin < seconds and len(times[0]) < MAX_PAIRS):
        for i in (0, 1) if len(times[0]) % 2 == 0 else (1, 0):
            times[i].append(measure(runs[i]))
    return median_ratio([a / b for a, b in zip(*times, strict=True)])
