"""The server scenario: single images asked for at random moments, and the highest rate at which 99 % come in time.

Requests arrive as a Poisson process (exponential gaps, seeded) and wait in one queue; latency is from arrival to image. The
client costs nothing: arrivals are times drawn ahead. A rate holds when the 99th percentile of its requests' latencies is
within the target and the calls take less time than there is, since a queue that only grows is in time for a while, too. The
search begins at the rate that a queue of the generator's own times would hold, goes from there in growing steps until it has
one rate that holds and one that does not, and then halves the distance. Every rate is tried with as many requests as were asked
for, however slow the network is; a rate that is too high is known for it sooner.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from stylert.benchmarks.machine.interference import Disturbance, watch
from stylert.benchmarks.scenarios.measure import Configuration, calls, timed_calls, warm_up

#: p99 of fewer requests would be a guess.
MIN_REQUESTS = 100
#: A trial lasts so long, and so many times the target: the queue of a rate that is a tenth too high has then outgrown it.
MIN_SECONDS, MIN_TARGETS = 3.0, 20
#: Calls one after the other, before the search, at least.
SERVICE_SECONDS, SERVICE_RUNS = 1.0, 10
#: The slowest of these calls are not believed: one in ten would be all of the 99th percentile, and it is cheaper to begin too high.
BELIEVED = 0.9
#: The search ends when the rates that hold and do not hold are this close, which is what a hundred requests can tell; after so many
#: trials; or below this share of the rate at which the server would never idle, where waiting for requests would take the time.
#: Its first step changes the rate by so much.
RESOLUTION, MAX_TRIALS, LEAST_SHARE, STEP = 0.1, 10, 0.1, 1.1


@dataclass(frozen=True)
class Served:
    """Latencies in ms of the requests answered before the trial of `requests` ended: all, or too few to hold any more. `busy_ms` is
    what a call took on average.
    """

    latencies_ms: list[float]
    requests: int
    busy_ms: float = 0.0

    @property
    def p99_ms(self) -> float:
        """A lower bound where the trial ended early: as if the others had taken no time."""
        return float(np.percentile(self.latencies_ms + [0.0] * (self.requests - len(self.latencies_ms)), 99))


@dataclass(frozen=True)
class Trial:
    """One rate tried, with the requests answered. Latencies in ms; p99 as that of `Served`."""

    rate: float
    requests: int
    p50_ms: float
    p99_ms: float
    holds: bool


@dataclass(frozen=True)
class Search:
    """The highest rate that held, images per second (0 when none did), its latencies, and every rate tried.

    `service_ms` is what one image takes by itself.
    """

    rate: float
    target_ms: float
    trials: list[Trial]
    latencies_ms: list[float] = field(default_factory=list)
    disturbance: Disturbance | None = None
    service_ms: float = 0.0

    def remarks(self) -> list[str]:
        """Why the rate is weak evidence, or why there is none. A rate that no trial exceeded is a lower bound."""
        found = []
        if not self.rate and self.service_ms > self.target_ms:
            found.append(f"no rate held: one image takes {self.service_ms:.0f} ms, and {self.target_ms:g} ms are the target")
        elif not self.rate:
            lowest = min(t.rate for t in self.trials)
            found.append(f"no rate held: {lowest:.2g} images/s, the lowest tried, were too many")
        elif all(t.holds for t in self.trials):
            found.append(f"every rate held that was tried: the highest lies above {self.rate:.2g} images/s")
        requests = len(self.latencies_ms)
        if self.rate and requests < MIN_REQUESTS:
            found.append(f"short: {requests} requests, where {MIN_REQUESTS} are the least that a 99th percentile can rest on")
        return found


def measure_server(configuration: Configuration, target_ms: float, requests: int = MIN_REQUESTS, seed: int = 0) -> Search:
    """Search in this process, with at least `requests` at every rate. Raises as `Generator.load`."""
    with configuration.load() as generator:
        call = calls(generator, 1)
        warm_up(call)
        services_ms = timed_calls(call, SERVICE_SECONDS, SERVICE_RUNS)
        with watch() as watched:
            found = search(
                lambda rate: serve(call, rate, target_ms, requests_at(rate, target_ms, requests), seed), services_ms, target_ms
            )
    return replace(found, disturbance=watched.disturbance)


#: A rate, per second, to what came of it
Serve = Callable[[float], Served]


def search(serve_at: Serve, services_ms: Sequence[float], target_ms: float) -> Search:
    """The highest rate that holds, for a generator whose images take `services_ms` one after the other."""
    service_ms, trials = float(np.median(services_ms)), list[Trial]()
    good, bad, best = 0.0, float("inf"), list[float]()
    if service_ms > target_ms:  # a server that idles and is still late will never be in time
        return Search(good, target_ms, trials, best, service_ms=service_ms)
    lowest = LEAST_SHARE * 1000 / service_ms
    believed = sorted(services_ms)[: math.ceil(BELIEVED * len(services_ms))]
    rate, step = max(queue_rate(believed, target_ms), lowest), STEP
    while len(trials) < MAX_TRIALS and rate >= lowest and (bad == float("inf") or bad - good > RESOLUTION * bad):
        served = serve_at(rate)
        holds = served.p99_ms <= target_ms and rate * served.busy_ms < 1000
        p50_ms = float(np.median(served.latencies_ms))
        trials.append(Trial(rate, len(served.latencies_ms), p50_ms, served.p99_ms, holds))
        if holds:
            good, best = rate, served.latencies_ms
        else:
            bad = rate
        if good and bad < float("inf"):
            rate = (good + bad) / 2
        else:
            rate, step = rate * step if holds else rate / step, step**2
    return Search(good, target_ms, trials, best, service_ms=service_ms)


def queue_rate(services_ms: Sequence[float], target_ms: float, requests: int = 4000) -> float:
    """The highest rate, per second, at which the 99th percentile is within the target if service times are drawn from those
    given, by Lindley's recursion; 0 when there is none.
    """
    rng = np.random.Generator(np.random.Philox(0))
    services, gaps = rng.choice(np.asarray(services_ms), requests), rng.exponential(1000.0, requests)
    low, high = 0.0, 1000 / float(np.mean(services_ms))
    while high - low > 0.01 * high and high > 1e-9:
        rate = (low + high) / 2
        # A request waits for as far as the sum of service times less gaps has risen above its lowest value so far.
        backlog = np.concatenate([[0.0], np.cumsum(services[:-1] - gaps[1:] / rate)])
        waits = backlog - np.minimum.accumulate(backlog)
        low, high = (rate, high) if np.percentile(waits + services, 99) <= target_ms else (low, rate)
    return low


def requests_at(rate: float, target_ms: float, least: int) -> int:
    """How many requests a rate is tried with."""
    return max(least, int(max(MIN_SECONDS, MIN_TARGETS * target_ms / 1000) * rate))


def serve(call: Callable[[], Any], rate: float, target_ms: float, requests: int, seed: int) -> Served:
    """`requests` arriving at `rate` per second, while their 99th percentile may still be within `target_ms`."""
    arrivals = np.cumsum(np.random.Generator(np.random.Philox(seed)).exponential(1 / rate, requests))
    latencies: list[float] = []
    late, busy, begin = 0, 0.0, time.perf_counter()
    for arrival in arrivals:
        while (wait := begin + arrival - time.perf_counter()) > 0:
            time.sleep(wait)
        called = time.perf_counter()
        call()
        done = time.perf_counter()
        busy += done - called
        latencies.append(1000 * (done - begin - arrival))
        late += latencies[-1] > target_ms
        if late > 0.01 * requests + 1:
            break
    return Served(latencies, requests, 1000 * busy / len(latencies))
