"""Latency and throughput of a bundle: one row per backend, precision and batch size.

Each row is measured in a process of its own, so that its peak memory is its own. After a warm-up of at least 200 ms the
row runs until both 3 s and 30 runs are reached (trtexec's rule with its numbers for one stream).
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from stylert.benchmarks.machine import busy_fraction, peak_memory_mib
from stylert.runtime.backends import available_backends, backend
from stylert.runtime.bundle import Bundle
from stylert.runtime.errors import InputError
from stylert.runtime.generator import Generator

MIN_SECONDS, MIN_RUNS = 3.0, 30
WARMUP_SECONDS, WARMUP_RUNS = 0.2, 3
#: Above this coefficient of variation, or this share of the cores taken by others, a row is marked.
UNSTABLE_CV, BUSY_CORES = 0.10, 0.10

#: `(stage, done, total)`
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class LatencyRow:
    """What one configuration measured. Latencies are milliseconds per call, from latents to images in host memory."""

    backend: str
    precision: str
    batch: int
    engine: bool  # from a built engine, or straight from the ONNX file
    runs: int
    min_ms: float
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    images_per_s: float
    load_s: float
    peak_memory_mib: float
    cv: float  # standard deviation over mean
    warnings: list[str] = field(default_factory=list)
    samples_ms: list[float] = field(default_factory=list)


def bench(
    bundle: Bundle,
    backends: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    batches: Sequence[int] = (1, 4),
    threads: int | None = None,
    min_seconds: float = MIN_SECONDS,
    min_runs: int = MIN_RUNS,
    progress: Progress | None = None,
) -> list[LatencyRow]:
    """Measure every combination that can run. Raises InputError for a batch below 1, and as `Generator.load`."""
    if any(b < 1 for b in batches):
        raise InputError("a batch size is at least 1")
    combinations = [
        (name, precision, batch)
        for name in (backends or available_backends())
        for precision in (precisions or bundle.precisions)
        for batch in batches
        if precision in backend(name).PRECISIONS or precisions is not None
    ]
    rows = []
    for i, (name, precision, batch) in enumerate(combinations):
        if progress is not None:
            progress(f"bench {name} {precision} batch {batch}", i, len(combinations))
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            rows.append(pool.submit(measure, bundle.path, name, precision, batch, threads, min_seconds, min_runs).result())
    if progress is not None:
        progress("bench", len(combinations), len(combinations))
    return rows


def measure(
    path: Path, backend_name: str, precision: str, batch: int, threads: int | None, min_seconds: float, min_runs: int
) -> LatencyRow:
    """Measure one configuration in this process."""
    busy = busy_fraction()
    started = time.perf_counter()
    with Generator.load(path, backend_name, precision, threads) as generator:
        load_s = time.perf_counter() - started
        model = generator.bundle.model
        rng = np.random.default_rng(0)
        z = rng.standard_normal((batch, model["z_dim"]), np.float32)
        labels = np.zeros(batch, np.int64) if model["c_dim"] else None
        noise = {n: rng.standard_normal((batch, 1, r, r), np.float32) for n, r in generator.bundle.noise_inputs.items()}
        ws = generator.map(z, psi=0.7, labels=labels)

        def run() -> float:
            start = time.perf_counter()
            generator.synthesize(ws, noise)
            return time.perf_counter() - start

        warm = time.perf_counter()
        runs = 0
        while runs < WARMUP_RUNS or time.perf_counter() - warm < WARMUP_SECONDS:
            run()
            runs += 1
        samples: list[float] = []
        begin = time.perf_counter()
        while len(samples) < min_runs or time.perf_counter() - begin < min_seconds:
            samples.append(run())
        elapsed = time.perf_counter() - begin
        engine = generator.engine is not None
    return summarize(backend_name, precision, batch, engine, samples, elapsed, load_s, busy)


def summarize(
    backend_name: str,
    precision: str,
    batch: int,
    engine: bool,
    samples: Sequence[float],
    elapsed: float,
    load_s: float,
    busy: float,
) -> LatencyRow:
    """The statistics of one row from its samples in seconds; percentiles by linear interpolation."""
    ms = np.asarray(samples) * 1000
    cv = float(ms.std() / ms.mean())
    warnings = []
    if cv > UNSTABLE_CV:
        warnings.append(f"unstable, cv {cv:.0%}")
    if busy > BUSY_CORES:
        warnings.append(f"busy machine, {busy:.0%}")
    p50, p90, p99 = np.percentile(ms, [50, 90, 99])
    return LatencyRow(
        backend_name,
        precision,
        batch,
        engine,
        len(ms),
        _ms(ms.min()),
        _ms(ms.mean()),
        _ms(p50),
        _ms(p90),
        _ms(p99),
        round(batch * len(ms) / elapsed, 2),
        round(load_s, 3),
        peak_memory_mib(),
        round(cv, 4),
        warnings,
        [_ms(v) for v in ms],
    )


def as_json(rows: Sequence[LatencyRow]) -> list[dict[str, object]]:
    return [asdict(row) for row in rows]


def _ms(value: float) -> float:
    return round(float(value), 3)
