"""One round of one configuration: load a generator in this process, warm it up, and time calls of it.

A call goes from latents in host memory to images in host memory. The calls take different latents in turn.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stylert.benchmarks.machine.interference import Interference, watch
from stylert.core.machine.host import peak_memory_mib
from stylert.runtime.bundle import Bundle
from stylert.runtime.generator import Generator

WARMUP_SECONDS, WARMUP_RUNS = 0.2, 3
#: Number of different latents that the calls take in turn, so that no call finds its result in a cache.
DISTINCT_LATENTS = 16
#: Number of extra calls whose phases (copies, compute) are timed.
PHASE_RUNS = 20
PSI = 0.7


@dataclass(frozen=True)
class Configuration:
    """One way to run a model.

    Attributes:
        model: Name of the model in the results.
        bundle: Folder of the bundle.
        backend: Name of the backend.
        precision: Name of the precision.
        batch: Images per call.
        threads: Threads of the backend, or None for its default.
        form: `stylert`, the form that the backend runs best, or `portable`, the bundle's canonical file.
    """

    model: str
    bundle: Path
    backend: str
    precision: str
    batch: int = 1
    threads: int | None = None
    form: str = "stylert"

    def load(self) -> Generator:
        """Load the generator. Raises as `Generator.load`."""
        bundle = Bundle.load(self.bundle)
        if self.form == "portable":
            entries = {name: dataclasses.replace(entry, plans={}) for name, entry in bundle.precisions.items()}
            bundle = dataclasses.replace(bundle, precisions=entries)
        return Generator.load(bundle, self.backend, self.precision, self.threads)


@dataclass(frozen=True)
class Round:
    """Measurements of one process.

    Attributes:
        samples_ms: Milliseconds of each call.
        load_s: Seconds until the generator was loaded.
        engine: Whether the generator runs from a built engine.
        version: Version of the backend.
        peak_memory_mib: Peak memory of the process, in MiB.
        interference: Activity of the machine during the calls.
        device_memory_mib: Memory on the GPU, in MiB.
        energy_j: Energy of the GPU, in joules.
        remarks: Notes of the generator.
        phases_ms: Median milliseconds of the phases of a call on a GPU; see `runtime.session.Timings`.
    """

    samples_ms: list[float]
    load_s: float
    engine: bool
    version: str
    peak_memory_mib: float
    interference: Interference
    device_memory_mib: float | None = None
    energy_j: float | None = None
    remarks: tuple[str, ...] = ()
    phases_ms: dict[str, float] = field(default_factory=dict)


def measure(configuration: Configuration, min_seconds: float, min_runs: int) -> Round:
    """Measure one round in this process: after a warm-up, at least `min_seconds` and `min_runs` calls.

    Raises as `Generator.load`.
    """
    from stylert.runtime.backends import backend

    start = time.perf_counter()
    with configuration.load() as generator:
        load_s = time.perf_counter() - start
        call = batch_call(generator, configuration.batch)
        warm_up(call)
        with watch() as watched:
            samples_ms = timed_calls(call, min_seconds, min_runs)
        phases_ms = median_phases_ms(generator, configuration.batch)
        engine, remarks = generator.engine is not None, tuple(generator.notes)
    assert watched.interference is not None
    gpu = watched.gpu
    return Round(
        samples_ms,
        load_s,
        engine,
        backend(configuration.backend).version(),
        peak_memory_mib(),
        watched.interference,
        gpu.memory_mib if gpu else None,
        gpu.energy_j if gpu else None,
        remarks,
        phases_ms,
    )


def batch_call(generator: Generator, batch: int, run: Callable[..., Any] | None = None) -> Callable[[], Any]:
    """A function without arguments that makes one batch. Its latents differ from call to call.

    Args:
        generator: The loaded generator.
        batch: Images per call.
        run: Called with ws `[batch, num_ws, w_dim]` and noise inputs, by default `generator.synthesize`.
    """
    run = run or generator.synthesize
    rng, model = np.random.default_rng(0), generator.bundle.model
    labels = np.zeros(batch, np.int64) if model["c_dim"] else None
    latents = [
        generator.map(rng.standard_normal((batch, model["z_dim"]), np.float32), psi=PSI, labels=labels)
        for _ in range(DISTINCT_LATENTS)
    ]
    noise = {n: rng.standard_normal((batch, 1, *size), np.float32) for n, size in generator.bundle.noise_sizes.items()}
    count = 0

    def call() -> Any:
        nonlocal count
        count += 1
        return run(latents[count % DISTINCT_LATENTS], noise)

    return call


def warm_up(call: Callable[[], Any]) -> None:
    """Call a function for at least `WARMUP_SECONDS` and `WARMUP_RUNS` times."""
    start, runs = time.perf_counter(), 0
    while runs < WARMUP_RUNS or time.perf_counter() - start < WARMUP_SECONDS:
        call()
        runs += 1


def timed_calls(call: Callable[[], Any], seconds: float, min_runs: int = 1) -> list[float]:
    """Milliseconds of each call. There are at least `min_runs` calls, and together they take at least `seconds`."""
    samples_ms: list[float] = []
    total = 0.0
    while len(samples_ms) < min_runs or total < seconds:
        start = time.perf_counter()
        call()
        duration = time.perf_counter() - start
        samples_ms.append(1000 * duration)
        total += duration
    return samples_ms


def median_phases_ms(generator: Generator, batch: int) -> dict[str, float]:
    """Median milliseconds of the phases of a call: h2d, compute, d2h and enqueue.

    A phase that the backend does not time is missing. The result is empty on a CPU.
    """
    call = batch_call(generator, batch, generator.timed_run)
    timings = [asdict(timing) for timing in [call() for _ in range(PHASE_RUNS)] if timing is not None]
    if not timings:
        return {}
    phases = [phase for phase, ms in timings[0].items() if ms is not None]
    return {phase: statistics.median(timing[phase] for timing in timings) for phase in phases}


def bottleneck_remarks(phases_ms: dict[str, float]) -> list[str]:
    """A remark if the host's enqueueing or the copies take longer than the network itself."""
    copies = phases_ms.get("h2d", 0.0) + phases_ms.get("d2h", 0.0)
    compute = phases_ms.get("compute", 0.0)
    enqueue = phases_ms.get("enqueue", 0.0)
    remarks = []
    if enqueue > copies + compute:
        remarks.append(f"enqueue-bound: the host takes {enqueue:.2g} ms to hand over {copies + compute:.2g} ms of work")
    if "compute" in phases_ms and copies > compute:
        remarks.append(f"transfer-bound: copies take {copies:.2g} ms, the network {compute:.2g} ms")
    return remarks
