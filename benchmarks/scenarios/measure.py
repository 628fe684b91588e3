"""One round of one configuration: a generator loaded in this process, warmed up, and called again and again.

From latents in host memory to images in host memory, on latents of its own for every call of the round's first hundred.
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

from stylert.benchmarks.machine.facts import peak_memory_mib
from stylert.benchmarks.machine.interference import Disturbance, watch
from stylert.runtime.bundle import Bundle
from stylert.runtime.generator import Generator

WARMUP_SECONDS, WARMUP_RUNS = 0.2, 3
#: Latents that calls take in turn, so that no cache knows the answer.
DISTINCT = 16
#: Calls that are taken apart, after those that are counted.
TIMED_RUNS = 20
PSI = 0.7


@dataclass(frozen=True)
class Configuration:
    """What is measured. `form` is stylert (what a backend runs best) or portable (the bundle's canonical file)."""

    model: str
    bundle: Path
    backend: str
    precision: str
    batch: int = 1
    threads: int | None = None
    form: str = "stylert"

    def load(self) -> Generator:
        bundle = Bundle.load(self.bundle)
        if self.form == "portable":
            plain = {name: dataclasses.replace(entry, plans={}) for name, entry in bundle.precisions.items()}
            bundle = dataclasses.replace(bundle, precisions=plain)
        return Generator.load(bundle, self.backend, self.precision, self.threads)


@dataclass(frozen=True)
class Round:
    """What one process measured."""

    samples_ms: list[float]
    load_s: float
    engine: bool
    version: str
    peak_memory_mib: float
    disturbance: Disturbance
    device_memory_mib: float | None = None
    energy_j: float | None = None
    remarks: tuple[str, ...] = ()  # what the backend itself has to say
    phases_ms: dict[str, float] = field(default_factory=dict)  # of a GPU's call: `runtime.session.Timings`


def measure(configuration: Configuration, min_seconds: float, min_runs: int) -> Round:
    """At least `min_seconds` and `min_runs` calls after a warm-up. Raises as `Generator.load`."""
    from stylert.runtime.backends import backend

    started = time.perf_counter()
    with configuration.load() as generator:
        load_s = time.perf_counter() - started
        call = calls(generator, configuration.batch)
        warm_up(call)
        with watch() as watched:
            samples = timed_calls(call, min_seconds, min_runs)
        phases = time_apart(generator, configuration.batch)
        engine, remarks = generator.engine is not None, tuple(generator.notes)
    assert watched.disturbance is not None
    gpu = watched.gpu
    return Round(
        samples,
        load_s,
        engine,
        backend(configuration.backend).version(),
        peak_memory_mib(),
        watched.disturbance,
        gpu.memory_mib if gpu else None,
        gpu.energy_j if gpu else None,
        remarks,
        phases,
    )


def time_apart(generator: Generator, batch: int) -> dict[str, float]:
    """Median milliseconds of the parts of a call (h2d, compute, d2h, enqueue), as far as the backend tells; empty on a CPU."""
    call = calls(generator, batch, generator.timed_run)
    found = [asdict(timings) for timings in [call() for _ in range(TIMED_RUNS)] if timings is not None]
    return {k: statistics.median(t[k] for t in found) for k in (found[0] if found else ()) if found[0][k] is not None}


def bound(phases_ms: dict[str, float]) -> list[str]:
    """What to know of a row whose time is not the network's."""
    device = sum(phases_ms.get(k, 0.0) for k in ("h2d", "compute", "d2h"))
    copies = phases_ms.get("h2d", 0.0) + phases_ms.get("d2h", 0.0)
    found = []
    if phases_ms.get("enqueue", 0.0) > device:
        found.append(f"enqueue-bound: the host takes {phases_ms['enqueue']:.2g} ms to hand over {device:.2g} ms of work")
    if copies > phases_ms.get("compute", copies):
        found.append(f"transfer-bound: copies take {copies:.2g} ms, the network {phases_ms['compute']:.2g} ms")
    return found


def calls(generator: Generator, batch: int, run: Callable[..., Any] | None = None) -> Callable[[], Any]:
    """A function that makes `batch` images, of other latents each time, by `run` (`generator.synthesize`)."""
    run = run or generator.synthesize
    rng, model = np.random.default_rng(0), generator.bundle.model
    labels = np.zeros(batch, np.int64) if model["c_dim"] else None
    latents = [
        generator.map(rng.standard_normal((batch, model["z_dim"]), np.float32), psi=PSI, labels=labels) for _ in range(DISTINCT)
    ]
    noise = {n: rng.standard_normal((batch, 1, r, r), np.float32) for n, r in generator.bundle.noise_inputs.items()}
    turn = 0

    def call() -> Any:
        nonlocal turn
        turn += 1
        return run(latents[turn % DISTINCT], noise)

    return call


def timed_calls(call: Callable[[], Any], seconds: float, least: int = 1) -> list[float]:
    """Milliseconds of each of at least `least` calls, which take at least `seconds` together."""
    samples: list[float] = []
    measured = 0.0
    while len(samples) < least or measured < seconds:
        start = time.perf_counter()
        call()
        took = time.perf_counter() - start
        samples.append(1000 * took)
        measured += took
    return samples


def warm_up(call: Callable[[], Any]) -> None:
    begin, runs = time.perf_counter(), 0
    while runs < WARMUP_RUNS or time.perf_counter() - begin < WARMUP_SECONDS:
        call()
        runs += 1
