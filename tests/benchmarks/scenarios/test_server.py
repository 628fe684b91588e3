"""The search of the server scenario finds the known rate of simulated queues, and ends in time."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from stylert.benchmarks.scenarios import server
from stylert.benchmarks.scenarios.server import (
    MAX_TRIALS,
    MIN_REQUESTS,
    MIN_SHARE,
    MIN_TARGETS,
    RESOLUTION,
    RequestLatencies,
    number_of_requests,
    queue_rate,
    search,
    serve,
)
from tests.clock import Clock


def server_with_limit(limit: float, requests: int = 100) -> Callable[[float], RequestLatencies]:
    """A trial whose requests are all in time up to the rate `limit`, and all late above it."""
    return lambda rate: RequestLatencies([1.0 if rate <= limit else 1e9] * requests, requests)


@pytest.mark.parametrize("limit", [3.0, 47.0, 2000.0])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_the_search_closes_in_on_the_limit(limit: float, share: float) -> None:
    found = search(server_with_limit(limit), [1000 * share / limit] * 10, 1000.0)
    assert limit * (1 - RESOLUTION) <= found.rate <= limit
    assert {t.holds for t in found.trials} == {True, False}
    assert found.remarks() == []


def test_the_search_ends_and_keeps_the_latencies_of_the_highest_rate_that_held() -> None:
    found = search(lambda rate: RequestLatencies([2.0, 3.0], 2), [5.0], 10.0)
    assert len(found.trials) == MAX_TRIALS
    assert found.rate == max(t.rate for t in found.trials)
    assert found.latencies_ms == [2.0, 3.0]
    assert found.remarks()[0] == f"every rate that was tried held: the limit is above {found.rate:.2g} images/s"


def test_a_server_that_is_always_late_holds_no_rate() -> None:
    found = search(lambda rate: RequestLatencies([99.0], 1), [5.0], 10.0)
    assert found.rate == 0
    assert found.latencies_ms == []
    assert 1 <= len(found.trials) <= MAX_TRIALS
    assert found.remarks()[0] == f"no rate held: the lowest one tried was {found.trials[-1].rate:.2g} images/s"


def test_no_rate_is_tried_if_one_image_takes_longer_than_the_target() -> None:
    found = search(lambda rate: pytest.fail("tried"), [20.0, 19.0, 21.0], 10.0)
    assert (found.rate, found.trials) == (0, [])
    assert found.remarks() == ["no rate held: one image takes 20 ms, and the target is 10 ms"]


def test_one_slow_call_does_not_make_the_search_start_far_too_low() -> None:
    tried: list[float] = []

    def run_trial(rate: float) -> RequestLatencies:
        tried.append(rate)
        return server_with_limit(limit=0.7)(rate)

    search(run_trial, [400.0] * 9 + [990.0], 1000.0)
    assert tried[0] == pytest.approx(queue_rate([400.0] * 9, 1000.0))
    assert len(tried) <= 5


def test_a_rate_from_too_few_requests_has_a_remark() -> None:
    assert (
        search(server_with_limit(30.0, 20), [5.0], 10.0).remarks()[0]
        == "short: 20 requests (a 99th percentile needs at least 100)"
    )


@pytest.mark.parametrize("target", [1.5, 3.0, 20.0])
def test_queue_rate_agrees_with_a_queue_simulated_request_by_request(rng: np.random.Generator, target: float) -> None:
    services = rng.uniform(0.5, 1.0, 30)
    rate = queue_rate(services, target)
    late = {}
    for share in (0.6, 1.3):  # well below and well above the rate
        wait, latencies = 0.0, []
        for _ in range(20000):
            latencies.append(wait + rng.choice(services))
            wait = max(0.0, latencies[-1] - rng.exponential(1000 / (share * rate)))
        late[share] = np.percentile(latencies, 99) > target
    assert late == {0.6: False, 1.3: True}


def test_queue_rate_is_zero_if_one_image_takes_longer_than_the_target() -> None:
    assert queue_rate([20.0], 10.0) == 0
    assert queue_rate([20.0], 20.0) < 1  # no request may wait


def serve_in_simulated_time(
    monkeypatch: pytest.MonkeyPatch, service: float, rate: float, target_ms: float, requests: int = MIN_REQUESTS
) -> RequestLatencies:
    clock = Clock()
    monkeypatch.setattr(server, "time", SimpleNamespace(perf_counter=clock, sleep=clock.sleep))
    return serve(lambda: clock.sleep(service), rate, target_ms, requests, seed=1)


@pytest.mark.parametrize("rate", [5.0, 40.0, 90.0])
def test_latencies_follow_lindleys_recursion(monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
    service = 0.01
    found = serve_in_simulated_time(monkeypatch, service, rate, 1e9, requests=int(3 * rate) + 100)
    gaps = np.random.Generator(np.random.Philox(1)).exponential(1 / rate, found.requests)
    wait, expected = 0.0, []
    for i in range(found.requests):
        wait = max(0.0, wait + service - gaps[i]) if i else 0.0
        expected.append(1000 * (wait + service))
    assert found.latencies_ms == pytest.approx(expected)
    assert found.p99_ms == pytest.approx(np.percentile(expected, 99))
    assert found.busy_ms == pytest.approx(1000 * service)


@pytest.mark.parametrize("rate", [30.0, 99.0, 300.0, 2000.0])
@pytest.mark.parametrize("target", [9.0, 30.0, 60.0])
def test_a_trial_that_ends_early_comes_to_the_same_decision_as_the_whole_trial(
    monkeypatch: pytest.MonkeyPatch, rate: float, target: float
) -> None:
    requests = max(MIN_REQUESTS, int(3 * rate))
    whole, found = (
        serve_in_simulated_time(monkeypatch, 0.01, rate, 1e9, requests),
        serve_in_simulated_time(monkeypatch, 0.01, rate, target, requests),
    )
    assert (found.p99_ms <= target) == (whole.p99_ms <= target)
    assert found.latencies_ms == pytest.approx(whole.latencies_ms[: len(found.latencies_ms)])
    if whole.p99_ms <= target:
        assert len(found.latencies_ms) == whole.requests
    else:
        assert found.p99_ms <= whole.p99_ms + 1e-6
        assert sum(ms > target for ms in found.latencies_ms) <= 0.01 * whole.requests + 2


@pytest.mark.parametrize("slow", [0.02, 0.5])
def test_a_generator_with_occasional_slow_calls_is_rejected_early(monkeypatch: pytest.MonkeyPatch, slow: float) -> None:
    """Its median is within the target, and its 99th percentile is above the target at every rate."""
    clock, calls = Clock(), iter(range(10**6))
    monkeypatch.setattr(server, "time", SimpleNamespace(perf_counter=clock, sleep=clock.sleep))

    def call() -> None:
        clock.sleep(0.6 if next(calls) % round(1 / slow) == 1 else 0.4)

    found = search(lambda rate: serve(call, rate, 500.0, MIN_REQUESTS, 0), [400.0] * 9 + [600.0], 500.0)
    assert found.rate == 0
    assert clock() < MIN_REQUESTS * 0.4 / MIN_SHARE * 2


@pytest.mark.parametrize("target", [100.0, 1000.0, 4000.0])
def test_a_rate_above_the_servers_capacity_does_not_hold_even_with_a_long_target(
    monkeypatch: pytest.MonkeyPatch, target: float
) -> None:
    """At 1.2 times the capacity, the first hundred requests are answered within 1000 ms, and later ones are not."""
    clock = Clock()
    monkeypatch.setattr(server, "time", SimpleNamespace(perf_counter=clock, sleep=clock.sleep))
    found = search(
        lambda rate: serve(lambda: clock.sleep(0.05), rate, target, number_of_requests(rate, target, MIN_REQUESTS), 0),
        [50.0] * 20,
        target,
    )
    assert (0.15 if target == 100 else 0.9) / 0.05 * (1 - RESOLUTION) < found.rate < 1 / 0.05
    assert len(found.latencies_ms) >= MIN_TARGETS * target / 1000 * found.rate - 1


def test_a_slow_network_gets_as_many_requests_as_a_fast_network(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(serve_in_simulated_time(monkeypatch, 0.5, 0.1, 1e9).latencies_ms) == MIN_REQUESTS
    assert len(serve_in_simulated_time(monkeypatch, 0.5, 0.1, 1e9, requests=7).latencies_ms) == 7
