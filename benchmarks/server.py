"""The server scenario: single images asked for at random moments, and the highest rate at which 99 % come in time.

Requests arrive as a Poisson process (exponential gaps, seeded) and wait in one queue; latency is from arrival to image. The
client costs nothing: arrivals are times drawn ahead. A rate holds when the 99th percentile of its requests' latencies is
within the target; the search doubles or halves from the rate that the generator's own speed suggests until it has one rate that
holds and one that does not, and then halves the distance, for as long as its time lasts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from stylert.benchmarks.disturbance import Disturbance, watch
from stylert.benchmarks.measure import Configuration, calls, warm_up

#: p99 of fewer requests would be a guess.
MIN_REQUESTS = 100
MIN_SECONDS = 3.0
#: The search ends when the rates that hold and do not hold are this close.
RESOLUTION = 0.05


@dataclass(frozen=True)
class Trial:
    """One rate tried. Latencies in ms; a trial that could not hold any more ended early, and its p99 is a lower bound."""

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
        """Why the rate is weak evidence, or why there is none."""
        found = []
        if not self.rate and self.service_ms > self.target_ms:
            found.append(f"no rate held: one image takes {self.service_ms:.0f} ms, and {self.target_ms:g} ms are the target")
        elif not self.rate:
            lowest = min(t.rate for t in self.trials)
            found.append(f"no rate held: {lowest:.2g} images/s, the lowest tried, were too many")
        requests = len(self.latencies_ms) if self.rate else min(t.requests for t in self.trials)
        if requests < MIN_REQUESTS:
            found.append(f"short: {requests} requests, where {MIN_REQUESTS} are the least that a 99th percentile can rest on")
        return found


def measure_server(configuration: Configuration, target_ms: float, seconds: float, seed: int = 0) -> Search:
    """Search in this process, for about `seconds`. Raises as `Generator.load`."""
    with configuration.load() as generator:
        call = calls(generator, 1)
        warm_up(call)
        services = []
        for _ in range(10):
            start = time.perf_counter()
            call()
            services.append(time.perf_counter() - start)
        with watch() as watched:
            found = search(
                lambda rate, limit: serve(call, rate, target_ms, limit, seed), float(np.median(services)), target_ms, seconds
            )
    return replace(found, disturbance=watched.disturbance)


#: `(rate, seconds)` to the latencies of a trial in ms, and whether it holds
Serve = Callable[[float, float], tuple[list[float], bool]]


def search(
    serve_at: Serve, service_s: float, target_ms: float, seconds: float, clock: Callable[[], float] = time.perf_counter
) -> Search:
    """The highest rate that holds, from trials of at most a quarter of `seconds` each."""
    begin, trials = clock(), list[Trial]()
    good, bad, best = 0.0, float("inf"), list[float]()
    rate = 0.7 / service_s  # where the queue of a steady server is still short
    while clock() - begin < seconds and (bad == float("inf") or bad - good > RESOLUTION * bad):
        latencies, holds = serve_at(rate, seconds / 4)
        p50, p99 = np.percentile(latencies, [50, 99])
        trials.append(Trial(rate, len(latencies), float(p50), float(p99), holds))
        if holds:
            good, best = rate, latencies
        else:
            bad = rate
        if good == 0:
            rate = bad / 2
            if 1000 * service_s > target_ms or rate * service_s < 1e-3:
                break  # a server that idles and is still late will never be in time
        else:
            rate = min(good * 1.25, (good + bad) / 2)
    return Search(good, target_ms, trials, best, service_ms=1000 * service_s)


def serve(call: Callable[[], Any], rate: float, target_ms: float, seconds: float, seed: int) -> tuple[list[float], bool]:
    """Latencies in ms of requests arriving at `rate` per second, and whether their p99 is within `target_ms`.

    At least `MIN_REQUESTS`, for at least 3 s, or as many as arrive in `seconds`, whichever is fewer, but never under 20.
    """
    count = int(max(20, min(max(MIN_REQUESTS, MIN_SECONDS * rate), seconds * rate)))
    arrivals = np.cumsum(np.random.Generator(np.random.Philox(seed)).exponential(1 / rate, count))
    latencies: list[float] = []
    late, begin = 0, time.perf_counter()
    for arrival in arrivals:
        while (wait := begin + arrival - time.perf_counter()) > 0:
            time.sleep(wait)
        call()
        latencies.append(1000 * (time.perf_counter() - begin - arrival))
        late += latencies[-1] > target_ms
        # More than one in a hundred is late already, and the queue is beyond hope.
        if late > 0.01 * count + 1 and latencies[-1] > 3 * target_ms:
            return latencies, False
    return latencies, float(np.percentile(latencies, 99)) <= target_ms
