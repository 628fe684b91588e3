"""The statistics of a series agree with NumPy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylert.benchmarks.sample_statistics import describe, drift

SERIES = st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=200)


@settings(deadline=None)
@given(st.lists(SERIES, min_size=1, max_size=4))
def test_the_statistics_agree_with_those_of_the_whole_series(rounds: list[list[float]]) -> None:
    everything = np.concatenate(rounds)
    d = describe(rounds)
    assert d.runs == len(everything)
    assert d.min == everything.min()
    assert d.mean == pytest.approx(everything.mean())
    assert d.cv == pytest.approx(everything.std() / everything.mean(), abs=1e-9)
    medians = [np.median(r) for r in rounds]
    assert d.spread == pytest.approx(max(medians) / min(medians) - 1, abs=1e-9)
    for p in d.percentiles.values():
        assert p.low is None or p.low <= p.value
        assert p.high is None or p.high >= p.value


def test_drift_compares_the_last_third_with_the_first() -> None:
    assert drift(np.array([1.0, 1, 1, 9, 9, 9, 2, 2, 2])) == 1.0
    assert drift(np.array([2.0, 2, 1, 1])) == 0.0  # fewer than six samples
    assert drift(np.linspace(1, 1, 30)) == 0.0


def test_rounds_without_a_sample_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing"):
        describe([])
