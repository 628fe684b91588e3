"""The comparison of two measurements agrees with SciPy and with known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from stylert.benchmarks.report.significance import Difference, compare, holm, outcome, student_p, student_quantile

MEDIANS = st.lists(st.floats(0.1, 10), min_size=3, max_size=8)


@settings(deadline=None)
@given(st.floats(0, 50), st.floats(2, 900))
def test_student_p_equals_scipys(t: float, freedom: float) -> None:
    assert student_p(t, freedom) == pytest.approx(2 * scipy.stats.t.sf(t, freedom), rel=1e-6, abs=1e-12)


@settings(deadline=None)
@given(st.floats(0.5, 0.999), st.floats(2, 900))
def test_student_quantile_equals_scipys(confidence: float, freedom: float) -> None:
    assert student_quantile(confidence, freedom) == pytest.approx(scipy.stats.t.ppf(0.5 + confidence / 2, freedom), rel=1e-6)


def test_student_p_of_many_degrees_of_freedom_is_that_of_the_normal_distribution() -> None:
    assert student_p(1.96, 1e6) == pytest.approx(2 * scipy.stats.norm.sf(1.96), rel=1e-9)
    assert student_p(math.inf, 4) == 0


@settings(deadline=None)
@given(MEDIANS, MEDIANS)
def test_rounds_are_compared_by_welchs_test(first: list[float], second: list[float]) -> None:
    if np.std(np.log(first)) + np.std(np.log(second)) < 1e-3:
        return  # below this, rounding errors dominate
    d = compare([[m, m, m] for m in first], [[m] for m in second])
    expected = scipy.stats.ttest_ind(np.log(second), np.log(first), equal_var=False)
    low, high = expected.confidence_interval(0.95)
    assert d.p == pytest.approx(expected.pvalue, rel=1e-5, abs=1e-9)
    assert math.log(d.low) == pytest.approx(low, abs=1e-6 + 1e-5 * abs(low))
    assert math.log(d.high) == pytest.approx(high, abs=1e-6 + 1e-5 * abs(high))
    assert d.ratio == pytest.approx(scipy.stats.gmean(second) / scipy.stats.gmean(first))


def test_identical_measurements_do_not_differ_and_doubled_ones_do() -> None:
    rounds = [[1.0, 1.1], [1.05, 1.02], [0.99, 1.0]]
    same = compare(rounds, rounds)
    assert same.ratio == 1
    assert outcome(same, same.p, "lower") == "no significant difference"
    double = compare(rounds, [[2 * v for v in r] for r in rounds])
    assert double.ratio == pytest.approx(2)
    assert outcome(double, double.p, "lower") == "slower"
    assert outcome(double, double.p, "higher") == "faster"
    constant = compare([[1.0]] * 3, [[2.0]] * 3)
    assert (constant.ratio, constant.p) == (2.0, 0.0)
    assert compare([[1.0]] * 3, [[1.0]] * 3).p == 1.0


def test_a_significant_but_tiny_difference_does_not_count() -> None:
    assert outcome(Difference(1.01, 1.009, 1.011, 1e-9, ""), 1e-9, "lower") == "no difference above 2%"


def test_with_one_process_on_a_side_the_interval_comes_from_a_block_bootstrap() -> None:
    rng = np.random.default_rng(11)
    # 600 dependent runs, which carry as much information as 40 independent ones.
    series = 1 + 0.05 * np.repeat(rng.standard_normal(40), 15)
    other = 1 + 0.05 * np.repeat(rng.standard_normal(40), 15)
    d = compare([series], [other])
    assert "block bootstrap" in d.method
    assert d.low < 1 < d.high
    assert d.p > 0.05
    shuffled = compare([rng.permutation(series)], [rng.permutation(other)])
    assert math.log(d.high / d.low) > 1.5 * math.log(shuffled.high / shuffled.low)
    far = compare([series], [1.5 * other])
    assert far.p < 0.01
    assert far.low < 1.5 < far.high
    assert compare([series], [1.5 * other]) == far  # the draws are seeded


def test_false_alarms_are_as_rare_as_the_confidence_level_promises() -> None:
    rng = np.random.default_rng(13)
    alarms = 0
    for _ in range(1000):
        first, second = (np.exp(0.03 * rng.standard_normal((5, 1))) for _ in range(2))
        alarms += compare(first.tolist(), second.tolist()).p < 0.05
    assert alarms < 75  # 50 of 1000 are expected, with a standard deviation of 7


def test_holms_adjustment_equals_one_computed_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holms_adjustment_is_never_below_its_definition(p: list[float]) -> None:
    adjusted = holm(p)
    ordered = sorted(p)
    for a, original in zip(adjusted, p, strict=True):
        rank = ordered.index(original)
        assert a >= min(1, original * (len(p) - rank)) - 1e-12
        assert a >= original
