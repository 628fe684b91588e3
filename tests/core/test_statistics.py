"""Percentiles, intervals and independence against SciPy and hand-computed cases."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from stylert.core.statistics import Ratio, independent_runs, interval_ranks, median_ratio, percentile

SERIES = st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=200)
QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)


@settings(deadline=None)
@given(st.integers(1, 3000), st.sampled_from([0.01, 0.25, *QUANTILES]))
def test_interval_ranks_are_binomial_quantiles(n: int, q: float) -> None:
    low, high = interval_ranks(n, q)
    below = scipy.stats.binom(n, q).cdf
    # The chance of missing is at most 2.5 % on each side, and one rank further in it would be more.
    slack = 1e-9
    assert low == 0 or below(low - 1) <= 0.025 + slack
    assert below(low) >= 0.025 - slack
    assert high == n + 1 or 1 - below(high - 1) <= 0.025 + slack
    assert 1 - below(high - 2) >= 0.025 - slack
    assert 0 <= low < high <= n + 1


def test_interval_ranks_of_cases_in_the_books() -> None:
    # The 95 % intervals of a median that tables give: 2nd to 9th of 10, 6th to 15th of 20, 40th to 61st of 100.
    assert [interval_ranks(n, 0.5) for n in (10, 20, 100)] == [(2, 9), (6, 15), (40, 61)]


@settings(deadline=None)
@given(SERIES)
def test_percentiles_are_scipys(values: list[float]) -> None:
    series = np.array(values)
    for q in QUANTILES:
        expected = scipy.stats.mstats.mquantiles(series, q, alphap=1, betap=1)[0]
        assert percentile(series, q).value == pytest.approx(expected)


@settings(deadline=None)
@given(SERIES)
def test_intervals_stand_on_order_statistics_and_hold_the_value(values: list[float]) -> None:
    ordered = np.sort(values)
    for q in QUANTILES:
        found, (low, high) = percentile(np.array(values), q), interval_ranks(len(values), q)
        assert found.low == (None if low == 0 else min(ordered[low - 1], found.value))
        assert found.high == (None if high > len(values) else max(ordered[high - 1], found.value))


def test_too_few_runs_leave_a_tail_open() -> None:
    hundred = np.arange(1.0, 101.0)
    assert percentile(hundred, 0.999).high is None
    assert percentile(hundred, 0.5).low == 40
    assert percentile(hundred, 0.5).high == 61
    assert percentile(hundred, 0.99).low == 97  # binom(100, 0.99) is at most 96 with probability 0.018, at most 97 with 0.079


def test_intervals_widen_as_far_as_the_runs_depend_on_each_other() -> None:
    series = np.arange(1.0, 101.0)
    alone, shared = percentile(series, 0.5), percentile(series, 0.5, independent=20)
    assert (shared.low, shared.high) == (26, 75)  # 6th and 15th of 20, each worth five runs
    assert alone.low is not None
    assert shared.low < alone.low


def test_every_run_said_k_times_counts_once() -> None:
    fresh = np.random.default_rng(7).standard_normal(400)
    alone = independent_runs(fresh)
    assert alone > 300
    for k in (2, 5, 10):
        assert independent_runs(np.repeat(fresh, k)) == pytest.approx(alone, rel=0.25)


def test_the_first_order_process_of_the_books() -> None:
    rng, phi, n = np.random.default_rng(3), 0.8, 20000
    x = np.zeros(n)
    for i in range(1, n):
        x[i] = phi * x[i - 1] + rng.standard_normal()
    assert independent_runs(x) == pytest.approx(n * (1 - phi) / (1 + phi), rel=0.15)


def test_rounds_at_different_levels_are_few_observations() -> None:
    rng = np.random.default_rng(5)
    levels = np.repeat([1.0, 1.3, 0.9, 1.1, 1.2], 50)
    assert independent_runs(levels + rng.normal(0, 0.01, 250)) < 25


@settings(deadline=None)
@given(SERIES)
def test_the_number_of_independent_runs_is_possible(values: list[float]) -> None:
    assert 1 <= independent_runs(np.array(values)) <= len(values)


def test_a_ratio_has_the_interval_of_the_sign_test(rng: np.random.Generator) -> None:
    ratios = rng.uniform(0.5, 0.9, 60)
    found = median_ratio(ratios.tolist())
    # As many ratios below the interval, and above it, as a fair coin shows with less than 2.5 %.
    beyond = int(scipy.stats.binom.ppf(0.025, independent_runs(ratios), 0.5))
    assert found.value == np.median(ratios)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high < 1
    assert np.sum(ratios < found.low) / 60 == pytest.approx((beyond - 1) / independent_runs(ratios), abs=0.02)
    assert found.faster
    assert not found.inverse.faster
    assert (found.inverse.low, found.inverse.high) == (1 / found.high, 1 / found.low)


def test_few_ratios_prove_nothing() -> None:
    found = median_ratio([0.5] * 5)
    assert found == Ratio(0.5, None, None, 5)
    assert not found.faster
    assert str(found) == "0.50 [?, ?]"
    assert str(found.inverse) == "2.00 [?, ?]"
    assert str(median_ratio([0.5] * 6)) == "0.50 [0.50, 0.50]"


def test_ratios_that_repeat_those_before_them_prove_less(rng: np.random.Generator) -> None:
    once, thrice = [], []
    for ratios in rng.uniform(0.5, 1.2, (30, 40)):
        for widths, found in ((once, median_ratio(ratios.tolist())), (thrice, median_ratio(np.repeat(ratios, 3).tolist()))):
            assert found.low is not None
            assert found.high is not None
            widths.append(found.high - found.low)
    # Three times the pairs would narrow an interval by about 1.7, were they new ones. One draw's intervals end where its values lie.
    assert np.mean(thrice) > 0.8 * np.mean(once)
