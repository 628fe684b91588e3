"""The server's search finds the rate of queues whose answer is known, and stops in time."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from stylert.benchmarks import server
from stylert.benchmarks.server import MIN_REQUESTS, RESOLUTION, search, serve
from tests.clock import Clock


@pytest.mark.parametrize("limit", [3.0, 47.0, 2000.0])
def test_the_search_closes_in_on_the_limit(limit: float) -> None:
    clock = Clock()

    def serve_at(rate: float, seconds: float) -> tuple[list[float], bool]:
        clock.now += 1
        return [1.0] * 100, rate <= limit

    found = search(serve_at, 0.8 / limit, 10.0, 60.0, clock)
    assert limit * (1 - 2 * RESOLUTION) <= found.rate <= limit
    assert {t.holds for t in found.trials} == {True, False}
    assert clock.now <= 30


def test_the_search_ends_with_its_time_and_keeps_what_held() -> None:
    clock = Clock()

    def serve_at(rate: float, seconds: float) -> tuple[list[float], bool]:
        clock.now += seconds
        return [2.0, 3.0], True

    found = search(serve_at, 0.1, 10.0, 8.0, clock)
    assert clock.now == 8
    assert found.rate == max(t.rate for t in found.trials)
    assert found.latencies_ms == [2.0, 3.0]


def test_a_server_that_is_always_late_holds_no_rate() -> None:
    clock = Clock()

    def serve_at(rate: float, seconds: float) -> tuple[list[float], bool]:
        clock.now += 1
        return [99.0], False

    found = search(serve_at, 0.1, 10.0, 1000.0, clock)
    assert found.rate == 0
    assert found.latencies_ms == []
    assert len(found.trials) < 20


@pytest.mark.parametrize(
    ("service_ms", "limit", "requests", "words"),
    [
        (20.0, 0.0, 100, ["no rate held: one image takes 20 ms, and 10 ms are the target"]),
        (5.0, 0.0, 12, ["no rate held: 0.27 images/s, the lowest tried", "short: 12 requests"]),
        (5.0, 30.0, 20, ["short: 20 requests, where 100"]),
        (5.0, 30.0, 100, []),
    ],
)
def test_a_rate_that_rests_on_little_says_so(service_ms: float, limit: float, requests: int, words: list[str]) -> None:
    clock = Clock()

    def serve_at(rate: float, seconds: float) -> tuple[list[float], bool]:
        clock.now += 1
        return [1.0] * requests, rate <= limit

    said = search(serve_at, service_ms / 1000, 10.0, 20.0, clock).remarks()
    assert len(said) == len(words)
    assert all(word in remark for word, remark in zip(words, said, strict=True)), said


def run(
    monkeypatch: pytest.MonkeyPatch, service: float, rate: float, target_ms: float, seconds: float = 100.0
) -> tuple[list[float], bool]:
    clock = Clock()
    monkeypatch.setattr(server, "time", SimpleNamespace(perf_counter=clock, sleep=clock.sleep))
    return serve(lambda: clock.sleep(service), rate, target_ms, seconds, seed=1)


@pytest.mark.parametrize("rate", [5.0, 40.0, 90.0])
def test_latencies_are_those_of_lindleys_recursion(monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
    service = 0.01
    found, _ = run(monkeypatch, service, rate, 1e9)
    gaps = np.random.Generator(np.random.Philox(1)).exponential(1 / rate, len(found))
    wait, expected = 0.0, []
    for i in range(len(found)):
        wait = max(0.0, wait + service - gaps[i]) if i else 0.0
        expected.append(1000 * (wait + service))
    assert found == pytest.approx(expected)
    assert len(found) == max(MIN_REQUESTS, int(3 * rate))


def test_a_rate_holds_only_while_the_queue_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, 0.01, 30, 60)[1]
    hopeless, holds = run(monkeypatch, 0.01, 300, 60)
    assert not holds
    assert len(hopeless) < 300  # given up before the end
    assert not run(monkeypatch, 0.01, 5, 9)[1]  # slower than the target even alone


def test_a_trial_has_no_more_requests_than_its_time_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(run(monkeypatch, 0.01, 10, 1e9, seconds=5)[0]) == 50
    assert len(run(monkeypatch, 0.01, 1, 1e9, seconds=5)[0]) == 20
