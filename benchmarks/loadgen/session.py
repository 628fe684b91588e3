"""Runs LoadGen's scenarios on one system, in a process of their own.

LoadGen cannot be stopped, and an error of a query leaves it waiting. So it runs in a thread of another process, which ends when
the first query fails, or when this process is interrupted.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from stylert.benchmarks.loadgen.kserve_client import RemoteTarget
from stylert.benchmarks.loadgen.queries import Queries, as_samples, queries
from stylert.benchmarks.loadgen.summary import LOGS, RESULTS, Verdict, read_verdict
from stylert.benchmarks.loadgen.systems import SAMPLES, LocalTarget, Speed, System, tried
from stylert.benchmarks.processes import new_process
from stylert.core.errors import InputError, missing_extra
from stylert.core.files.atomic import atomic_directory
from stylert.core.files.temporary import temporary_folder

SCENARIOS = tuple(RESULTS)
#: Shares of the offline rate that are tried for the server scenario, until LoadGen says VALID.
SHARES = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
#: LoadGen prepares queries for its least duration at the expected speed. A system that is faster by up to this factor has enough.
MARGIN = 1.5
#: Seconds for which each way to make many images is tried.
TRIAL_S = 1.0


@dataclass(frozen=True)
class LoadEffort:
    """How long LoadGen tests.

    Attributes:
        seconds: Least duration of a test.
        min_queries: Least number of its queries, or of the samples in the one query of the offline scenario.
        p99_ms: Latency that 99 % of the requests of the server scenario must keep.
        server_qps: Requests per second of the server scenario; None searches the rate.
        trial_s: Seconds for which each way to make many images is tried before.

    Raises:
        InputError: A number is not above 0.
    """

    seconds: float = 60.0
    min_queries: int = 100
    p99_ms: float = 50.0
    server_qps: float | None = None
    trial_s: float = TRIAL_S

    def __post_init__(self) -> None:
        numbers = (self.seconds, self.min_queries, self.p99_ms, self.trial_s, self.server_qps or 1.0)
        if not all(0 < number < math.inf for number in numbers) or self.server_qps == 0:
            raise InputError("seconds, queries, the latency target and the rate are above 0")


@dataclass(frozen=True)
class Judged:
    """A test and what LoadGen said about it.

    Attributes:
        system: Name of the system.
        way: How it made many images, in the offline scenario.
        verdict: LoadGen's verdict.
        target_qps: Of the server scenario, the requests per second.
        is_trial: Whether the search goes on with a lower rate.
        logs: The folder of LoadGen's logs, or None if they are not kept.
    """

    system: str
    way: str
    verdict: Verdict
    target_qps: float | None
    is_trial: bool
    logs: Path | None


def judged(
    target: LocalTarget | RemoteTarget,
    scenarios: Sequence[str],
    effort: LoadEffort,
    out: Path | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Iterator[Judged]:
    """Run LoadGen's scenarios, and yield its verdicts as they come.

    Args:
        target: What is tested.
        scenarios: Some of `SCENARIOS`. The server scenario comes last, since its rate is a share of the offline rate.
        effort: How long.
        out: Folder for LoadGen's logs, each test in its own; None keeps none.
        note: Told what is being done.

    Raises:
        InputError: A scenario is unknown.
        BackendError: LoadGen is not installed, or the system or the server fails.
    """
    for name in scenarios or ("none",):
        if name not in SCENARIOS:
            raise InputError(f"LoadGen's scenarios here are {', '.join(SCENARIOS)}, not {name!r}")
    if find_spec("mlperf_loadgen") is None:
        raise missing_extra("MLPerf's LoadGen", "loadgen")
    with new_process("a load by LoadGen", _open, target) as call:
        name, way, speed = call(_try, effort.trial_s)
        note(f"{name}: {1000 * speed.latency_s:.3g} ms alone, {speed.rate:.4g} images/s in {way}")
        rate = speed.rate

        def test(scenario: str, qps: float | None = None) -> tuple[Verdict, Path | None]:
            note(f"LoadGen: {scenario}" + ("" if qps is None else f" at {qps:.4g}/s"))
            with _log_folder(out, scenario) as (folder, logs):
                settings = _settings(scenario, effort, speed.latency_s, rate if qps is None else qps)
                call(_test, scenario, settings, str(folder))
                return read_verdict(folder, scenario), logs

        for scenario in [each for each in SCENARIOS if each in scenarios and each != "server"]:
            verdict, logs = test(scenario)
            yield Judged(name, way, verdict, None, False, logs)
            if scenario == "offline":
                rate = verdict.value
        rates = [effort.server_qps] if effort.server_qps else [share * rate for share in SHARES]
        for qps in rates if "server" in scenarios else []:
            verdict, logs = test("server", qps)
            is_last = verdict.is_valid or qps == rates[-1]
            yield Judged(name, way, verdict, qps, not is_last, logs)
            if is_last:
                break


def _settings(scenario: str, effort: LoadEffort, latency_s: float, rate: float) -> dict[str, Any]:
    """LoadGen's settings by their names in `TestSettings`, without the scenario."""
    times: dict[str, Any] = {"min_duration_ms": max(1, round(1000 * effort.seconds)), "min_query_count": effort.min_queries}
    if scenario == "single-stream":
        return times | {"single_stream_expected_latency_ns": max(1, int(1e9 * latency_s / MARGIN))}
    if scenario == "offline":
        return times | {"offline_expected_qps": rate * MARGIN}
    return times | {"server_target_qps": rate, "server_target_latency_ns": int(1e6 * effort.p99_ms)}


@contextmanager
def _log_folder(out: Path | None, scenario: str) -> Iterator[tuple[Path, Path | None]]:
    """A folder in which LoadGen writes, and the one that the logs get if they are kept."""
    if out is None:
        with temporary_folder("loadgen") as folder:
            yield folder, None
        return
    logs = out / f"loadgen-{scenario}"
    with atomic_directory(logs, lambda _: LOGS) as folder:
        yield folder, logs


#: Of the process of the tests.
_system: System | None = None
_queries: dict[str, Queries] = {}
_failures: SimpleQueue[BaseException | None] = SimpleQueue()


def _open(target: LocalTarget | RemoteTarget) -> None:
    global _system
    _system = target.open()


def _try(seconds: float) -> tuple[str, str, Speed]:
    """The name of the system, its fastest way, and its speed."""
    global _system
    assert _system is not None
    _system, speed = tried(_system, seconds)
    return _system.name, _system.ways[0].name, speed


def _test(scenario: str, settings: dict[str, Any], folder: str) -> None:
    """Run one test, whose logs go to `folder`. Raises the error of the first query that fails."""
    assert _system is not None
    if scenario not in _queries:
        _queries[scenario] = queries(scenario, _system, _failures.put)
    threading.Thread(target=_run, args=[_queries[scenario], scenario, settings, folder], daemon=True).start()
    error = _failures.get()  # the end of the test, or an error before
    if error is not None:
        raise error


def _run(answering: Queries, scenario: str, settings: dict[str, Any], folder: str) -> None:
    """Start LoadGen and wait until it ends."""
    try:
        import mlperf_loadgen as loadgen

        names = {"single-stream": "SingleStream", "offline": "Offline", "server": "Server"}
        test = loadgen.TestSettings()
        test.scenario = getattr(loadgen.TestScenario, names[scenario])
        test.mode = loadgen.TestMode.PerformanceOnly
        for name, value in settings.items():
            setattr(test, name, value)
        output = loadgen.LogOutputSettings()
        output.outdir = folder
        log = loadgen.LogSettings()
        log.log_output = output
        log.enable_trace = False

        def issue(query: Any) -> None:
            try:
                answering.issue(as_samples(query))
            except BaseException as e:
                _failures.put(e)

        system = loadgen.ConstructSUT(issue, _nothing)
        library = loadgen.ConstructQSL(SAMPLES, SAMPLES, _nothing, _nothing)
        loadgen.StartTestWithLogSettings(system, library, test, log)
        loadgen.DestroyQSL(library)
        loadgen.DestroySUT(system)
        _failures.put(None)
    except BaseException as e:
        _failures.put(e)


def _nothing(*_: Any) -> None:
    pass
