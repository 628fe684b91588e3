"""Calls are timed one by one, until the least time and the least number are reached."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from stylert.benchmarks.scenarios import measure
from stylert.benchmarks.scenarios.measure import timed_calls
from tests.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=fake))
    return fake


@pytest.mark.parametrize(
    ("seconds", "min_runs", "count"),
    [(1.0, 1, 4), (1.0, 7, 7), (0.0, 3, 3), (0.2, 1, 1)],
)
def test_both_the_least_time_and_the_least_number_are_reached(clock: Clock, seconds: float, min_runs: int, count: int) -> None:
    assert timed_calls(lambda: clock.sleep(0.25), seconds, min_runs) == pytest.approx([250.0] * count)


def test_every_call_has_its_own_time(clock: Clock) -> None:
    durations: Iterator[float] = iter([0.1, 0.4, 0.2, 0.5, 9.0])
    assert timed_calls(lambda: clock.sleep(next(durations)), 1.0) == pytest.approx([100.0, 400.0, 200.0, 500.0])
