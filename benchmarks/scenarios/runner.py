"""The scenarios of `stylert bench`, and their rows.

- *single-stream*: one image after another; the latency of each
- *offline*: batch after batch; images per second for each batch size
- *server*: single images requested at random times; the highest rate at which 99 % are answered in time
- *cold-start*: from the start of a process to its first image
- *build*: from the ONNX file to the engine

Each round of each configuration runs in a new process, so it has a peak memory of its own, and the spread of the rounds shows
how far processes differ. The configurations take turns in every round, so a slow minute of the machine affects all of them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from stylert.benchmarks.machine.interference import (
    as_json_values,
    instability_remarks,
    merge_interference,
    sample_size_remarks,
    watch,
)
from stylert.benchmarks.processes import new_process
from stylert.benchmarks.sample_statistics import describe
from stylert.benchmarks.scenarios import cold_start
from stylert.benchmarks.scenarios.build_time import Build, measure_build
from stylert.benchmarks.scenarios.measure import Configuration, Round, bottleneck_remarks, measure
from stylert.benchmarks.scenarios.server import MIN_REQUESTS, RateSearch, measure_server
from stylert.benchmarks.schema import Row
from stylert.core.errors import InputError
from stylert.core.progress import Progress

SCENARIOS = ("single-stream", "offline", "server", "cold-start", "build")

#: The work of each model, by its name: `benchmarks.models.model_work`.
Works = Mapping[str, dict[str, Any]]


@dataclass(frozen=True)
class Effort:
    """How long to measure each row.

    Attributes:
        seconds: Least time of all rounds together.
        runs: Least number of images in all rounds together.
        rounds: Number of processes.
        server_requests: Least number of requests at each rate of the server scenario.
        target_ms: Target of the 99th percentile in the server scenario.
        starts: Number of cold starts.
        builds: Number of builds.

    Raises:
        InputError: A number is too small.
    """

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
    works: Works,
    scenarios: Sequence[str],
    effort: Effort,
    progress: Progress = lambda *_: None,
    between: Callable[[], None] = lambda: None,
) -> Iterator[Row]:
    """Yield the rows of the scenarios as they are measured.

    A single-stream or offline row is yielded after each of its rounds, with the rounds so far. The last one counts.

    Args:
        configurations: What to run.
        works: The work of each model.
        scenarios: Some of `SCENARIOS`.
        effort: How long to measure.
        progress: Called as the scenarios advance.
        between: Called before the last row of each round through all configurations, and after each server search.

    Raises:
        InputError: A scenario is unknown.
        BackendError: A backend failed.
    """
    check_scenarios(scenarios)
    if "single-stream" in scenarios or "offline" in scenarios:
        yield from _run_streams(configurations, works, scenarios, effort, progress, between)
    single = list(dict.fromkeys(replace(c, batch=1) for c in configurations))
    if "server" in scenarios:
        yield from _run_servers(single, works, effort, progress, between)
    # These scenarios have no portable form.
    single = [c for c in single if c.form == "stylert"]
    if "cold-start" in scenarios:
        yield from _run_cold_starts(single, works, effort, progress)
    if "build" in scenarios:
        yield from _run_builds(single, works, effort, progress)


def check_scenarios(names: Sequence[str]) -> None:
    """Check the names of scenarios.

    Raises:
        InputError: A name is unknown, or there is none.
    """
    for name in names or ("none",):
        if name not in SCENARIOS:
            raise InputError(f"unknown scenario {name!r}: choose from {', '.join(SCENARIOS)}")


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process and return its result.

    Raises:
        BackendError: The process cannot be started, or it died. Any error of the function itself is raised as it is.
    """
    configuration = next((a for a in arguments if isinstance(a, Configuration)), None)
    name = f"{configuration.backend} {configuration.precision}" if configuration else function.__name__.replace("_", " ")
    with new_process(name) as call:
        return call(function, *arguments)


def single_stream(configuration: Configuration, work: dict[str, Any], rounds: Sequence[Round]) -> Row:
    """The row of one image after another. Its value is the median latency."""
    row = _stream_row(configuration, work, rounds)
    samples_ms = [r.samples_ms for r in rounds]
    assert row.distribution is not None
    median_ms = row.distribution.percentiles["50"].value
    return replace(
        row, scenario="single-stream", metric="latency", unit="ms", better="lower", value=median_ms, rounds=samples_ms
    )


def offline(configuration: Configuration, work: dict[str, Any], rounds: Sequence[Round]) -> Row:
    """The row of batch after batch. Its value is the mean number of images per second; each round is one sample."""
    return _stream_row(configuration, work, rounds)


def server(configuration: Configuration, work: dict[str, Any], result: RateSearch) -> Row:
    """The row of a server search. Its value is the highest rate that held."""
    return Row(
        "server",
        work,
        _setup(configuration),
        "rate",
        "images/s",
        "higher",
        result.rate,
        [[result.rate]] if result.rate else [],
        describe([result.latencies_ms]) if result.latencies_ms else None,
        instability_remarks(None, result.interference) + result.remarks(),
        images_per_s=result.rate,
        disturbance=as_json_values(result.interference),
        details={"trials": [asdict(t) for t in result.trials], "arrivals": "Poisson, seed 0, one queue, batch 1"},
    )


def build(configuration: Configuration, work: dict[str, Any], builds: Sequence[Build]) -> Row:
    """The row of a build. Its value is the median time."""
    rounds = [[b.seconds] for b in builds]
    interference = merge_interference([b.interference for b in builds])
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
        instability_remarks(None, interference),
        peak_memory_mib=max(b.peak_memory_mib for b in builds),
        disturbance=as_json_values(interference),
        details={"engine_bytes": builds[0].bytes},
    )


def _run_streams(
    configurations: Sequence[Configuration],
    works: Works,
    scenarios: Sequence[str],
    effort: Effort,
    progress: Progress,
    between: Callable[[], None],
) -> Iterator[Row]:
    """Single-stream and offline rows. Both scenarios share their measurements at batch 1."""
    chosen = [c for c in configurations if "offline" in scenarios or c.batch == 1]
    rounds: dict[Configuration, list[Round]] = {c: [] for c in chosen}
    total = effort.rounds * len(chosen)
    for done in range(total):
        c = chosen[done % len(chosen)]
        progress("measure", done, total)
        min_runs = max(2, -(-effort.runs // (effort.rounds * c.batch)))
        rounds[c].append(in_new_process(measure, c, effort.seconds / effort.rounds, min_runs))
        progress("measure", done + 1, total)
        if c is chosen[-1]:
            between()
        work = works[c.model] | {"precision": c.precision, "batch": c.batch}
        if c.batch == 1 and "single-stream" in scenarios:
            yield single_stream(c, work, rounds[c])
        if "offline" in scenarios:
            yield offline(c, work, rounds[c])


def _run_servers(
    configurations: Sequence[Configuration], works: Works, effort: Effort, progress: Progress, between: Callable[[], None]
) -> Iterator[Row]:
    for i, c in enumerate(configurations):
        progress("server", i, len(configurations))
        work = works[c.model] | {"precision": c.precision, "batch": 1, "p99_ms": effort.target_ms}
        result = in_new_process(measure_server, c, effort.target_ms, effort.server_requests)
        between()
        yield server(c, work, result)
        progress("server", i + 1, len(configurations))


def _run_cold_starts(
    configurations: Sequence[Configuration], works: Works, effort: Effort, progress: Progress
) -> Iterator[Row]:
    for i, c in enumerate(configurations):
        progress("cold-start", i, len(configurations))
        with watch() as watched:
            starts = [cold_start.cold_start(c.bundle, c.backend, c.precision, c.threads) for _ in range(effort.starts)]
        assert watched.interference is not None
        yield cold_start.row(c, works[c.model] | {"precision": c.precision, "batch": 1}, starts, watched.interference)
        progress("cold-start", i + 1, len(configurations))


def _run_builds(configurations: Sequence[Configuration], works: Works, effort: Effort, progress: Progress) -> Iterator[Row]:
    for i, c in enumerate(configurations):
        progress("build", i, len(configurations))
        builds = [in_new_process(measure_build, c) for _ in range(effort.builds)]
        yield build(c, works[c.model] | {"precision": c.precision}, builds)
        progress("build", i + 1, len(configurations))


def _stream_row(configuration: Configuration, work: dict[str, Any], rounds: Sequence[Round]) -> Row:
    """The offline row of some rounds. `single_stream` replaces the value and its unit."""
    samples_ms = [r.samples_ms for r in rounds]
    distribution = describe(samples_ms)
    interference = merge_interference([r.interference for r in rounds])
    images, seconds = distribution.runs * configuration.batch, sum(map(sum, samples_ms)) / 1000
    images_per_s = 1000 * configuration.batch / distribution.mean
    images_per_s_by_round = [[1000 * configuration.batch * len(s) / sum(s)] for s in samples_ms]
    device_memory = [r.device_memory_mib for r in rounds if r.device_memory_mib is not None]
    energy_j = [r.energy_j for r in rounds if r.energy_j is not None]
    phases_ms = _median_phases_ms(rounds)
    remarks = [
        *instability_remarks(distribution, interference),
        *dict.fromkeys(remark for r in rounds for remark in r.remarks),
        *bottleneck_remarks(phases_ms),
        *sample_size_remarks(images, seconds),
    ]
    return Row(
        "offline",
        work,
        _setup(configuration) | {"version": rounds[0].version, "engine": rounds[0].engine},
        "throughput",
        "images/s",
        "higher",
        images_per_s,
        images_per_s_by_round,
        distribution,
        remarks,
        images_per_s=images_per_s,
        peak_memory_mib=max(r.peak_memory_mib for r in rounds),
        device_memory_mib=max(device_memory) if device_memory else None,
        joules_per_image=sum(energy_j) / images if energy_j else None,
        phases_ms=phases_ms,
        disturbance=as_json_values(interference),
        details={"load_s": statistics.median(r.load_s for r in rounds), "rounds": len(rounds)},
    )


def _median_phases_ms(rounds: Sequence[Round]) -> dict[str, float]:
    timed = [r.phases_ms for r in rounds if r.phases_ms]
    if not timed:
        return {}
    return {phase: statistics.median(phases[phase] for phases in timed) for phase in timed[0]}


def _setup(configuration: Configuration) -> dict[str, Any]:
    return {"backend": configuration.backend, "form": configuration.form, "threads": configuration.threads}
