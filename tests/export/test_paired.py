"""The ratio of two timings, and how far it can be trusted, against the exact binomial distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from stylert.export.paired import LEAST_PAIRS, MOST_PAIRS, paired_ratio, ratio_of
from tests.clock import Clock


@pytest.mark.parametrize("n", [9, 10, 25, 60, 200])
def test_the_interval_is_the_sign_tests(rng: np.random.Generator, n: int) -> None:
    first, second = rng.uniform(1, 2, n), rng.uniform(1, 2, n)
    found = ratio_of(first.tolist(), second.tolist())
    ratios = np.sort(first / second)
    # The narrowest pair of order statistics that misses the median with at most 2.5 % on either side.
    k = int(stats.binom.ppf(0.025, n, 0.5))
    while stats.binom.cdf(k - 1, n, 0.5) > 0.025:
        k -= 1
    assert stats.binom.cdf(k, n, 0.5) > 0.025
    assert (found.low, found.high) == (ratios[k - 1], ratios[n - k])
    assert found.value == np.median(ratios)


def test_few_pairs_prove_nothing() -> None:
    found = ratio_of([1.0] * 5, [2.0] * 5)
    assert (found.low, found.high) == (0.0, math.inf)
    assert not found.faster
    assert ratio_of([1.0] * LEAST_PAIRS, [2.0] * LEAST_PAIRS).faster


def test_a_drift_of_the_machine_does_not_look_like_a_difference() -> None:
    clock = Clock()
    run = lambda: clock.sleep(1 + 0.05 * clock.now)  # noqa: E731  (each call is slower than the one before)
    found = paired_ratio(run, run, 60.0, clock)
    assert found.low <= 1 <= found.high


def test_pairs_are_as_many_as_the_time_allows_and_never_too_few() -> None:
    clock = Clock()
    assert paired_ratio(lambda: clock.sleep(10), lambda: clock.sleep(20), 1.0, clock).pairs == LEAST_PAIRS
    assert paired_ratio(lambda: clock.sleep(1), lambda: clock.sleep(1), 60.0, clock).pairs == 30
    found = paired_ratio(lambda: clock.sleep(1e-6), lambda: clock.sleep(2e-6), 60.0, clock)
    assert found.pairs == MOST_PAIRS
    assert found.value == pytest.approx(0.5)
