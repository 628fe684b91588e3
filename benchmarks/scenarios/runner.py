"""The scenarios of `stylert bench`, each row from several processes.

- *single-stream*: one image after the other, the latency of each;
- *offline*: batch after batch, images per second for each batch size;
- *server*: single images at random moments, the highest rate at which 99 % come within a target;
- *cold-start*: from the start of a process to its first image;
- *build*: from network to engine.

Every round of every configuration is a process of its own, so that its peak memory is its own and its rounds tell how far
processes differ. The rounds go through all configurations in turn, so that a slow minute of the machine does not fall on one.
"""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from typing import Any

from stylert.benchmarks.distribution import describe
from stylert.benchmarks.machine.interference import as_values, merge, remarks, too_short, watch
from stylert.benchmarks.scenarios import cold_start
from stylert.benchmarks.scenarios.build_time import Build, measure_build
from stylert.benchmarks.scenarios.measure import Configuration, Round, bound, measure
from stylert.benchmarks.scenarios.server import MIN_REQUESTS, Search, measure_server
from stylert.benchmarks.schema import Row
from stylert.core.errors import BackendError, InputError

SCENARIOS = ("single-stream", "offline", "server", "cold-start", "build")

#: `(stage, done, total)`
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Effort:
    """How long to measure. Seconds and runs are of all rounds together; of runs at batch n, one counts as n."""

    seconds: float = 3.0
    runs: int = 100
    rounds: int = 5
    server_requests: int = MIN_REQUESTS
    target_ms: float = 500.0
    starts: int = 5
    builds: int = 3

    def __post_init__(self) -> None:
        if min(self.rounds, self.runs, self.server_requests, self.starts, self.builds) < 1:
            raise InputError("rounds, runs, requests, starts and builds are at least 1")
        if not all(0 < v < float("inf") for v in (self.seconds, self.target_ms)):
            raise InputError("seconds and the latency target are above 0")


def run_scenarios(
    configurations: Sequence[Configuration],
    works: dict[str, dict[str, Any]],
    scenarios: Sequence[str],
    effort: Effort,
    progress: Progress = lambda *_: None,
    between: Callable[[], None] = lambda: None,
) -> Iterator[Row]:
    """Rows of every scenario, each as soon as it is measured. A row of several rounds comes again with every round that ends,
    for what it knows until then: take the latest. `works` says for each model what its rows compute: name, weights, resolution.
    `between` is called before the last row of every round through all configurations, and after the server's.

    Raises InputError for an unknown scenario, and as `Generator.load` for what does not run.
    """
    check_scenarios(scenarios)
    if {"single-stream", "offline"} & set(scenarios):
        chosen = [c for c in configurations if "offline" in scenarios or c.batch == 1]
        for configuration, found in _rounds(chosen, effort, progress, between):
            work = works[configuration.model] | {"precision": configuration.precision, "batch": configuration.batch}
            if configuration.batch == 1 and "single-stream" in scenarios:
                yield single_stream(configuration, work, found, effort)
            if "offline" in scenarios:
                yield offline(configuration, work, found, effort)
    each = list(dict.fromkeys(replace(c, batch=1) for c in configurations))
    for i, c in enumerate(each if "server" in scenarios else []):
        progress("server", i, len(each))
        work = works[c.model] | {"precision": c.precision, "batch": 1, "p99_ms": effort.target_ms}
        found = alone(measure_server, c, effort.target_ms, effort.server_requests)
        between()
        yield server(c, work, found)
        progress("server", i + 1, len(each))
    once = [c for c in each if c.form == "stylert"]
    for i, c in enumerate(once if "cold-start" in scenarios else []):
        progress("cold-start", i, len(once))
        with watch() as watched:
            starts = [cold_start.cold_start(c.bundle, c.backend, c.precision, c.threads) for _ in range(effort.starts)]
        assert watched.disturbance is not None
        yield cold_start.row(c, works[c.model] | {"precision": c.precision, "batch": 1}, starts, watched.disturbance)
        progress("cold-start", i + 1, len(once))
    for i, c in enumerate(once if "build" in scenarios else []):
        progress("build", i, len(once))
        yield build(c, works[c.model] | {"precision": c.precision}, [alone(measure_build, c) for _ in range(effort.builds)])
        progress("build", i + 1, len(once))


def check_scenarios(names: Sequence[str]) -> None:
    """Raises InputError for a scenario that there is not, or for none."""
    for name in names or ("none",):
        if name not in SCENARIOS:
            raise InputError(f"unknown scenario {name!r}: choose from {', '.join(SCENARIOS)}")


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process. Raises what it raises, and BackendError when the process dies."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool:
            what = next((a for a in arguments if isinstance(a, Configuration)), None)
            name = f"{what.backend} {what.precision}" if what else function.__name__
            raise BackendError(f"the process that measured {name} died: is there enough memory?") from None


def single_stream(configuration: Configuration, work: dict[str, Any], rounds: Sequence[Round], effort: Effort) -> Row:
    """Median latency of a call; the distribution says the rest."""
    return _row("single-stream", configuration, work, rounds, effort, "latency", "ms")


def offline(configuration: Configuration, work: dict[str, Any], rounds: Sequence[Round], effort: Effort) -> Row:
    """Images per second, a figure for each round."""
    return _row("offline", configuration, work, rounds, effort, "throughput", "images/s")


def server(configuration: Configuration, work: dict[str, Any], found: Search) -> Row:
    distribution = describe([found.latencies_ms]) if found.latencies_ms else None
    notes = remarks(None, found.disturbance) + found.remarks()
    return Row(
        "server",
        work,
        _setup(configuration),
        "rate",
        "images/s",
        "higher",
        found.rate,
        [[found.rate]] if found.rate else [],
        distribution,
        notes,
        images_per_s=found.rate,
        disturbance=as_values(found.disturbance),
        details={"trials": [asdict(t) for t in found.trials], "arrivals": "Poisson, seed 0, one queue, batch 1"},
    )


def build(configuration: Configuration, work: dict[str, Any], builds: Sequence[Build]) -> Row:
    """Median time of a build."""
    rounds = [[b.seconds] for b in builds]
    disturbance = merge([b.disturbance for b in builds])
    return Row(
        "build",
        work,
        _setup(configuration) | {"version": builds[0].version},
        "time",
        "s",
        "lower",
        statistics.median(b.seconds for b in builds),
        rounds,
        describe(rounds),
        remarks(None, disturbance),
        peak_memory_mib=max(b.peak_memory_mib for b in builds),
        disturbance=as_values(disturbance),
        details={"engine_bytes": builds[0].bytes},
    )


def _rounds(
    configurations: Sequence[Configuration], effort: Effort, progress: Progress, between: Callable[[], None]
) -> Iterator[tuple[Configuration, list[Round]]]:
    """Each configuration with its rounds until then, whenever one has ended."""
    found: dict[Configuration, list[Round]] = {c: [] for c in configurations}
    total = effort.rounds * len(configurations)
    for done in range(total):
        c = configurations[done % len(configurations)]
        progress("measure", done, total)
        runs = max(2, -(-effort.runs // (effort.rounds * c.batch)))
        found[c].append(alone(measure, c, effort.seconds / effort.rounds, runs))
        progress("measure", done + 1, total)
        if c is configurations[-1]:
            between()
        yield c, found[c]


def _row(
    scenario: str,
    configuration: Configuration,
    work: dict[str, Any],
    rounds: Sequence[Round],
    effort: Effort,
    metric: str,
    unit: str,
) -> Row:
    samples = [r.samples_ms for r in rounds]
    distribution, disturbance = describe(samples), merge([r.disturbance for r in rounds])
    rates = [1000 * configuration.batch * len(s) / sum(s) for s in samples]
    rate = 1000 * configuration.batch / distribution.mean
    energy = [r.energy_j for r in rounds if r.energy_j is not None]
    device = [r.device_memory_mib for r in rounds if r.device_memory_mib is not None]
    notes = remarks(distribution, disturbance) + list(dict.fromkeys(said for r in rounds for said in r.remarks))
    parts = [r.phases_ms for r in rounds if r.phases_ms]
    phases = {k: statistics.median(p[k] for p in parts) for k in (parts[0] if parts else ())}
    notes += bound(phases)
    images, seconds = distribution.runs * configuration.batch, sum(map(sum, samples)) / 1000
    notes += too_short(images, seconds)
    stream = scenario == "single-stream"
    return Row(
        scenario,
        work,
        _setup(configuration) | {"version": rounds[0].version, "engine": rounds[0].engine},
        metric,
        unit,
        "lower" if stream else "higher",
        distribution.percentiles["50"].value if stream else rate,
        samples if stream else [[r] for r in rates],
        distribution,
        notes,
        images_per_s=rate,
        peak_memory_mib=max(r.peak_memory_mib for r in rounds),
        device_memory_mib=max(device) if device else None,
        joules_per_image=sum(energy) / images if energy else None,
        phases_ms=phases,
        disturbance=as_values(disturbance),
        details={"load_s": statistics.median(r.load_s for r in rounds), "rounds": len(rounds)},
    )


def _setup(configuration: Configuration) -> dict[str, Any]:
    return {"backend": configuration.backend, "form": configuration.form, "threads": configuration.threads}
