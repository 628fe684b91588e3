"""The server's search finds the rate of queues whose answer is known, and stops in time."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from stylert.benchmarks.scenarios import server
from stylert.benchmarks.scenarios.server import (
    LEAST_SHARE,
    MAX_TRIALS,
    MIN_REQUESTS,
    MIN_TARGETS,
    RESOLUTION,
    Served,
    queue_rate,
    requests_at,
    search,
    serve,
)
from tests.clock import Clock


def served(limit: float, requests: int = 100) -> Callable[[float], Served]:
    return lambda rate: Served([1.0 if rate <= limit else 1e9] * requests, requests)


@pytest.mark.parametrize("limit", [3.0, 47.0, 2000.0])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_the_search_closes_in_on_the_limit(limit: float, share: float) -> None:
    found = search(served(limit), [1000 * share / limit] * 10, 1000.0)
    assert limit * (1 - RESOLUTION) <= found.rate <= limit
    assert {t.holds for t in found.trials} == {True, False}
    assert found.remarks() == []


def test_the_search_ends_and_keeps_what_held() -> None:
    found = search(lambda rate: Served([2.0, 3.0], 2), [5.0], 10.0)
    assert len(found.trials) == MAX_TRIALS
    assert found.rate == max(t.rate for t in found.trials)
    assert found.latencies_ms == [2.0, 3.0]
    assert found.remarks()[0] == f"every rate held that was tried: the highest lies above {found.rate:.2g} images/s"


def test_a_server_that_is_always_late_holds_no_rate() -> None:
    found = search(lambda rate: Served([99.0], 1), [5.0], 10.0)
    assert found.rate == 0
    assert found.latencies_ms == []
    assert 1 <= len(found.trials) <= MAX_TRIALS
    assert "no rate held: " in found.remarks()[0]
    assert f"{found.trials[-1].rate:.2g} images/s, the lowest tried" in found.remarks()[0]


def test_an_image_that_takes_longer_than_the_target_is_not_asked_for() -> None:
    found = search(lambda rate: pytest.fail("tried"), [20.0, 19.0, 21.0], 10.0)
    assert (found.rate, found.trials) == (0, [])
    assert found.remarks() == ["no rate held: one image takes 20 ms, and 10 ms are the target"]


def test_one_slow_call_does_not_make_the_search_begin_far_too_low() -> None:
    tried: list[float] = []

    def serve_at(rate: float) -> Served:
        tried.append(rate)
        return served(limit=0.7)(rate)

    search(serve_at, [400.0] * 9 + [990.0], 1000.0)
    assert tried[0] == pytest.approx(queue_rate([400.0] * 9, 1000.0))
    assert len(tried) <= 5


def test_a_rate_that_rests_on_little_says_so() -> None:
    assert search(served(30.0, 20), [5.0], 10.0).remarks()[0].startswith("short: 20 requests, where 100")


@pytest.mark.parametrize("target", [1.5, 3.0, 20.0])
def test_the_queues_rate_is_that_of_a_simulated_queue(rng: np.random.Generator, target: float) -> None:
    services = rng.uniform(0.5, 1.0, 30)
    rate = queue_rate(services, target)
    late = {}
    for share in (0.6, 1.3):  # well within, and well beyond
        wait, latencies = 0.0, []
        for _ in range(20000):
            latencies.append(wait + rng.choice(services))
            wait = max(0.0, latencies[-1] - rng.exponential(1000 / (share * rate)))
        late[share] = np.percentile(latencies, 99) > target
    assert late == {0.6: False, 1.3: True}


def test_no_queue_holds_what_one_image_does_not() -> None:
    assert queue_rate([20.0], 10.0) == 0
    assert queue_rate([20.0], 20.0) < 1  # nobody may wait


def run(monkeypatch: pytest.MonkeyPatch, service: float, rate: float, target_ms: float, requests: int = MIN_REQUESTS) -> Served:
    clock = Clock()
    monkeypatch.setattr(server, "time", SimpleNamespace(perf_counter=clock, sleep=clock.sleep))
    return serve(lambda: clock.sleep(service), rate, target_ms, requests, seed=1)


@pytest.mark.parametrize("rate", [5.0, 40.0, 90.0])
def test_latencies_are_those_of_lindleys_recursion(monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
    service = 0.01
    found = run(monkeypatch, service, rate, 1e9, requests=int(3 * rate) + 100)
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
def test_a_trial_ends_when_it_cannot_hold_any_more_and_says_no_more_than_it_knows(
    monkeypatch: pytest.MonkeyPatch, rate: float, target: float
) -> None:
    requests = max(MIN_REQUESTS, int(3 * rate))
    whole, found = run(monkeypatch, 0.01, rate, 1e9, requests), run(monkeypatch, 0.01, rate, target, requests)
    assert (found.p99_ms <= target) == (whole.p99_ms <= target)
    assert found.latencies_ms == pytest.approx(whole.latencies_ms[: len(found.latencies_ms)])
    if whole.p99_ms <= target:
        assert len(found.latencies_ms) == whole.requests
    else:
        assert found.p99_ms <= whole.p99_ms + 1e-6
        assert sum(ms > target for ms in found.latencies_ms) <= 0.01 * whole.requests + 2


@pytest.mark.parametrize("slow", [0.02, 0.5])
def test_a_generator_that_is_late_now_and_then_is_soon_known_for_it(monkeypatch: pytest.MonkeyPatch, slow: float) -> None:
    """Its median is within the target and its 99th percentile is not, however few requests there are."""
    clock, calls = Clock(), iter(range(10**6))
    monkeypatch.setattr(server, "time", SimpleNamespace(perf_counter=clock, sleep=clock.sleep))

    def call() -> None:
        clock.sleep(0.6 if next(calls) % round(1 / slow) == 1 else 0.4)

    found = search(lambda rate: serve(call, rate, 500.0, MIN_REQUESTS, 0), [400.0] * 9 + [600.0], 500.0)
    assert found.rate == 0
    assert clock() < MIN_REQUESTS * 0.4 / LEAST_SHARE * 2


@pytest.mark.parametrize("target", [100.0, 1000.0, 4000.0])
def test_no_rate_holds_that_the_server_cannot_answer_however_patient_its_clients(
    monkeypatch: pytest.MonkeyPatch, target: float
) -> None:
    """A hundred requests at 1.2 times what it can do are all answered within 1000 ms; the next hundred would not be."""
    clock = Clock()
    monkeypatch.setattr(server, "time", SimpleNamespace(perf_counter=clock, sleep=clock.sleep))
    found = search(
        lambda rate: serve(lambda: clock.sleep(0.05), rate, target, requests_at(rate, target, MIN_REQUESTS), 0),
        [50.0] * 20,
        target,
    )
    assert (0.15 if target == 100 else 0.9) / 0.05 * (1 - RESOLUTION) < found.rate < 1 / 0.05
    assert len(found.latencies_ms) >= MIN_TARGETS * target / 1000 * found.rate - 1


def test_a_slow_network_gets_as_many_requests_as_a_fast_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(run(monkeypatch, 0.5, 0.1, 1e9).latencies_ms) == MIN_REQUESTS
    assert len(run(monkeypatch, 0.5, 0.1, 1e9, requests=7).latencies_ms) == 7
