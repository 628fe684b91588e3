"""Calls are timed one by one, for as long and as often as was asked."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from stylert.benchmarks.scenarios import measure
from stylert.benchmarks.scenarios.measure import timed_calls
from tests.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=found))
    return found


@pytest.mark.parametrize(
    ("seconds", "least", "count"),
    [(1.0, 1, 4), (1.0, 7, 7), (0.0, 3, 3), (0.2, 1, 1)],
)
def test_both_the_time_and_the_number_are_reached(clock: Clock, seconds: float, least: int, count: int) -> None:
    assert timed_calls(lambda: clock.sleep(0.25), seconds, least) == pytest.approx([250.0] * count)


def test_every_call_has_its_own_time(clock: Clock) -> None:
    durations: Iterator[float] = iter([0.1, 0.4, 0.2, 0.5, 9.0])
    assert timed_calls(lambda: clock.sleep(next(durations)), 1.0) == pytest.approx([100.0, 400.0, 200.0, 500.0])
