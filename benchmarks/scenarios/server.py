"""The server scenario: the highest rate of random requests for single images at which 99 % are answered in time.

Requests arrive as a Poisson process and wait in one queue. Their arrival times are drawn in advance, so the client costs no
time. The latency of a request is the time from its arrival to its image.

A rate holds if two things are true. The 99th percentile of the latencies is within the target, and the server is idle for part
of the time. The queue of a server that is always busy grows, even if its first requests are answered in time.

A queue is simulated with the measured times of calls. The search starts at the highest rate that this queue holds. It
changes the rate in growing steps until one rate holds and another does not, and then halves the distance between them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from stylert.benchmarks.machine.interference import Interference, watch
from stylert.benchmarks.scenarios.measure import Configuration, batch_call, timed_calls, warm_up

#: Least number of requests in a trial. Fewer say little about a 99th percentile.
MIN_REQUESTS = 100
#: Least duration of a trial, in seconds and in multiples of the target. The queue of a rate that is 10 % too high outgrows the
#: target in this time.
MIN_SECONDS, MIN_TARGETS = 3.0, 20
#: Least duration and number of the calls that are timed before the search.
SERVICE_SECONDS, SERVICE_RUNS = 1.0, 10
#: Share of these calls that the simulated queue uses, the fastest ones. One slow call of ten would decide the whole 99th
#: percentile. To start too high is cheaper: such a trial ends early.
FASTEST_SHARE = 0.9
#: The search ends when the rates that hold and do not hold differ by less than this share.
RESOLUTION = 0.1
#: The search ends after this number of trials.
MAX_TRIALS = 10
#: The search ends below this share of the rate of a server that is never idle. A trial would mostly wait for requests.
MIN_SHARE = 0.1
#: Factor of the first change of the rate.
FIRST_STEP = 1.1


@dataclass(frozen=True)
class RequestLatencies:
    """The answered requests of one trial.

    Attributes:
        latencies_ms: Latency of each answered request. There are fewer than `requests` if the trial ended early.
        requests: Number of requests of the whole trial.
        busy_ms: Mean duration of a call.
    """

    latencies_ms: list[float]
    requests: int
    busy_ms: float = 0.0

    @property
    def p99_ms(self) -> float:
        """99th percentile. It is a lower bound if the trial ended early, because missing requests count as 0 ms."""
        missing = [0.0] * (self.requests - len(self.latencies_ms))
        return float(np.percentile(self.latencies_ms + missing, 99))


@dataclass(frozen=True)
class RateTrial:
    """One rate that was tried.

    Attributes:
        rate: Requests per second.
        requests: Number of answered requests.
        p50_ms: Median latency.
        p99_ms: As `RequestLatencies.p99_ms`.
        holds: Whether the rate holds.
    """

    rate: float
    requests: int
    p50_ms: float
    p99_ms: float
    holds: bool


@dataclass(frozen=True)
class RateSearch:
    """Result of a search.

    Attributes:
        rate: The highest rate that held, in images per second; 0 if none did.
        target_ms: Target of the 99th percentile.
        trials: Every rate that was tried.
        latencies_ms: Latencies at `rate`.
        interference: Activity of the machine during the search.
        service_ms: Median duration of a call without a queue.
    """

    rate: float
    target_ms: float
    trials: list[RateTrial]
    latencies_ms: list[float] = field(default_factory=list)
    interference: Interference | None = None
    service_ms: float = 0.0

    def remarks(self) -> list[str]:
        """Reasons why no rate held, why the rate is only a lower bound, or why it rests on too few requests."""
        remarks = []
        if not self.rate and self.service_ms > self.target_ms:
            remarks.append(f"no rate held: one image takes {self.service_ms:.0f} ms, and the target is {self.target_ms:g} ms")
        elif not self.rate:
            lowest = min(trial.rate for trial in self.trials)
            remarks.append(f"no rate held: the lowest one tried was {lowest:.2g} images/s")
        elif all(trial.holds for trial in self.trials):
            remarks.append(f"every rate that was tried held: the limit is above {self.rate:.2g} images/s")
        requests = len(self.latencies_ms)
        if self.rate and requests < MIN_REQUESTS:
            remarks.append(f"short: {requests} requests (a 99th percentile needs at least {MIN_REQUESTS})")
        return remarks


def measure_server(
    configuration: Configuration, target_ms: float, min_requests: int = MIN_REQUESTS, seed: int = 0
) -> RateSearch:
    """Search the highest rate in this process. Raises as `Generator.load`.

    Args:
        configuration: What to run. Its batch is ignored: every request is one image.
        target_ms: Target of the 99th percentile.
        min_requests: Least number of requests in each trial.
        seed: Seed of the arrival times.
    """
    with configuration.load() as generator:
        call = batch_call(generator, 1)
        warm_up(call)
        services_ms = timed_calls(call, SERVICE_SECONDS, SERVICE_RUNS)

        def run_trial(rate: float) -> RequestLatencies:
            return serve(call, rate, target_ms, number_of_requests(rate, target_ms, min_requests), seed)

        with watch() as watched:
            result = search(run_trial, services_ms, target_ms)
    return replace(result, interference=watched.interference)


def search(run_trial: Callable[[float], RequestLatencies], services_ms: Sequence[float], target_ms: float) -> RateSearch:
    """Search the highest rate that holds.

    Args:
        run_trial: Serves requests at a rate, in requests per second.
        services_ms: Durations of calls without a queue.
        target_ms: Target of the 99th percentile.
    """
    service_ms = float(np.median(services_ms))
    trials: list[RateTrial] = []
    if service_ms > target_ms:  # late even without a queue
        return RateSearch(0.0, target_ms, trials, service_ms=service_ms)
    min_rate = MIN_SHARE * 1000 / service_ms
    fastest_ms = sorted(services_ms)[: math.ceil(FASTEST_SHARE * len(services_ms))]
    rate, step = max(queue_rate(fastest_ms, target_ms), min_rate), FIRST_STEP
    highest_good, lowest_bad = 0.0, float("inf")
    latencies_ms: list[float] = []
    while len(trials) < MAX_TRIALS and rate >= min_rate and not _is_close(highest_good, lowest_bad):
        answered = run_trial(rate)
        holds = answered.p99_ms <= target_ms and rate * answered.busy_ms < 1000
        median_ms = float(np.median(answered.latencies_ms))
        trials.append(RateTrial(rate, len(answered.latencies_ms), median_ms, answered.p99_ms, holds))
        if holds:
            highest_good, latencies_ms = rate, answered.latencies_ms
        else:
            lowest_bad = rate
        if highest_good and lowest_bad < float("inf"):
            rate = (highest_good + lowest_bad) / 2
        else:
            rate, step = rate * step if holds else rate / step, step**2
    return RateSearch(highest_good, target_ms, trials, latencies_ms, service_ms=service_ms)


def queue_rate(services_ms: Sequence[float], target_ms: float, requests: int = 4000) -> float:
    """The highest rate at which a simulated queue keeps its 99th percentile within the target, by Lindley's recursion.

    Args:
        services_ms: Durations of calls. The simulation draws from them.
        target_ms: Target of the 99th percentile.
        requests: Number of simulated requests.

    Returns:
        Requests per second, or 0 if no rate holds.
    """
    rng = np.random.Generator(np.random.Philox(0))
    services, gaps = rng.choice(np.asarray(services_ms), requests), rng.exponential(1000.0, requests)
    low, high = 0.0, 1000 / float(np.mean(services_ms))
    while high - low > 0.01 * high and high > 1e-9:
        rate = (low + high) / 2
        # The wait of a request is the sum of services minus gaps before it, above the lowest value of this sum so far.
        backlog = np.concatenate([[0.0], np.cumsum(services[:-1] - gaps[1:] / rate)])
        waits = backlog - np.minimum.accumulate(backlog)
        if np.percentile(waits + services, 99) <= target_ms:
            low = rate
        else:
            high = rate
    return low


def number_of_requests(rate: float, target_ms: float, min_requests: int) -> int:
    """Number of requests in a trial, so that it has `min_requests`, `MIN_SECONDS` and `MIN_TARGETS`."""
    seconds = max(MIN_SECONDS, MIN_TARGETS * target_ms / 1000)
    return max(min_requests, int(seconds * rate))


def serve(call: Callable[[], Any], rate: float, target_ms: float, requests: int, seed: int) -> RequestLatencies:
    """Serve one trial in real time. It ends as soon as too many requests are late for the 99th percentile to hold.

    Args:
        call: Makes one image.
        rate: Requests per second.
        target_ms: Target of the 99th percentile.
        requests: Number of requests.
        seed: Seed of the arrival times.
    """
    arrivals = np.cumsum(np.random.Generator(np.random.Philox(seed)).exponential(1 / rate, requests))
    latencies_ms: list[float] = []
    late, busy, begin = 0, 0.0, time.perf_counter()
    for arrival in arrivals:
        while (wait := begin + arrival - time.perf_counter()) > 0:
            time.sleep(wait)
        start = time.perf_counter()
        call()
        end = time.perf_counter()
        busy += end - start
        latencies_ms.append(1000 * (end - begin - arrival))
        late += latencies_ms[-1] > target_ms
        if late > 0.01 * requests + 1:
            break
    return RequestLatencies(latencies_ms, requests, 1000 * busy / len(latencies_ms))


def _is_close(good: float, bad: float) -> bool:
    return bad < float("inf") and bad - good <= RESOLUTION * bad
