"""Two functions timed in turn, with a clock that only they move."""

from __future__ import annotations

import pytest

from stylert.core.paired_timing import MAX_PAIRS, MIN_PAIRS, interleaved_times, paired_ratio
from tests.clock import Clock


def test_a_drift_of_the_machine_does_not_look_like_a_difference() -> None:
    clock = Clock()
    run = lambda: clock.sleep(1 + 0.05 * clock.now)  # noqa: E731  (each call is slower than the one before)
    found = paired_ratio(run, run, 60.0, clock)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= 1 <= found.high


def test_pairs_are_as_many_as_the_time_allows_and_never_too_few() -> None:
    clock = Clock()
    assert paired_ratio(lambda: clock.sleep(10), lambda: clock.sleep(20), 1.0, clock).pairs == MIN_PAIRS
    assert paired_ratio(lambda: clock.sleep(1), lambda: clock.sleep(1), 60.0, clock).pairs == 15
    found = paired_ratio(lambda: clock.sleep(1e-6), lambda: clock.sleep(2e-6), 60.0, clock)
    assert found.pairs == MAX_PAIRS
    assert found.value == pytest.approx(0.5)
    assert found.faster


def test_what_it_costs_to_take_turns_is_not_counted() -> None:
    """Behind the other's call one is slower, the more so the larger it is; the first calls of each are slower still."""
    clock, calls = Clock(), []

    def network(name: str, switch: float) -> None:
        cost = 3.0 if calls.count(name) < 2 else switch if calls[-1] != name else 1.0
        calls.append(name)
        clock.sleep(cost)

    found = paired_ratio(lambda: network("first", 1.1), lambda: network("second", 1.5), 60.0, clock)
    assert (found.value, found.low, found.high) == (1, 1, 1)


def test_every_second_cycle_goes_backwards() -> None:
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        return float(len(order))

    times = interleaved_times([lambda name=name: measure(name) for name in "abc"], lambda finished: finished < 3)
    assert "".join(order) == "abc" + "cba" + "abc"
    assert times == [[1, 6, 7], [2, 5, 8], [3, 4, 9]]
