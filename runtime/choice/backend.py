"""`backend="auto"`: measures which backend is the fastest on this machine, and remembers the result.

The order of the backends depends on the network, the precision, the processor and the libraries' versions. The first use
measures single images, for a few seconds. The user's cache folder keeps the times until one of these changes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stylert.core.errors import BackendError, OutputError, StylertError
from stylert.core.files.atomic import atomic_file
from stylert.core.files.cache import cache_folder
from stylert.core.files.digests import sha256_of
from stylert.core.files.inputs import read_file
from stylert.core.files.json_documents import MAX_BYTES, read_document
from stylert.core.machine.devices import find_gpus
from stylert.core.machine.host import cpu_identity, usable_cores
from stylert.runtime.backends import available_backends, backend
from stylert.runtime.bundle import Bundle
from stylert.runtime.engines import ENGINE_JSON
from stylert.runtime.loading import engine_to_load, open_synthesis
from stylert.runtime.session import Session

#: A backend and a precision
Pair = tuple[str, str]
#: Every backend runs at least `MIN_RUNS` times, and all of them for `SECONDS` each.
MIN_RUNS, SECONDS = 3, 0.5


def choose_backend(
    bundle: Bundle,
    precision: str,
    threads: int | None = None,
    cache: Path | None = None,
    among: Collection[str] | None = None,
) -> tuple[str, str]:
    """Choose the fastest backend for one image.

    Args:
        bundle: The bundle.
        precision: The precision to run.
        threads: CPU threads; None leaves the number to the library.
        cache: The folder that keeps the times, by default in the user's cache folder. If it cannot be written, the next
            start measures again.
        among: The backends to choose from; None for all of this machine.

    Returns:
        The backend's name, and the reason for it in one line.

    Raises:
        InputError: The bundle lacks the precision.
        BackendError: No backend on this machine runs the precision.
    """
    bundle.precision(precision)
    names = [name for name in runnable_backends(bundle, precision, threads) if among is None or name in among]
    if not names:
        raise BackendError(f"no backend here runs {precision}; stylert doctor says what is missing")
    if len(names) == 1:
        return names[0], f"{names[0]} is the only backend here that runs {precision}"
    times, source = kept_times(bundle, names, precision, threads, cache)
    if not times:
        raise BackendError(f"no backend here loads the {precision} network of {bundle.path}; try --backend onnxruntime for why")
    order = sorted(times, key=times.__getitem__)
    all_times = ", ".join(f"{name} {times[name]:.1f} ms" for name in order)
    return order[0], f"{order[0]} is the fastest for one {precision} image: {all_times} ({source})"


def runnable_backends(bundle: Bundle, precision: str, threads: int | None) -> list[str]:
    """The backends of this machine that run a precision of the bundle."""
    return [name for name in available_backends() if _can_run(bundle, name, precision, threads)]


def kept_times(
    bundle: Bundle, names: list[str], precision: str, threads: int | None, cache: Path | None
) -> tuple[dict[str, float], str]:
    """The times of `measure`, from the cache folder or measured now, and which of the two, in words."""
    file = cache_file(cache, choice_facts(bundle, names, precision, threads))
    times, source = read_numbers(file, names), "measured before"
    if times is None:
        times, source = measure(bundle, names, precision, threads), "measured now"
        if not keep_numbers(file, times):
            source += ", and not remembered: the cache folder cannot be written"
    return times, source


def measure(bundle: Bundle, names: list[str], precision: str, threads: int | None) -> dict[str, float]:
    """The least time of one image on each backend that loads and runs, in milliseconds."""
    times = measure_pairs(bundle, [(name, precision) for name in names], threads)
    return {name: milliseconds for (name, _), milliseconds in times.items()}


def measure_pairs(bundle: Bundle, pairs: Sequence[Pair], threads: int | None) -> dict[Pair, float]:
    """The least time of one image with each pair that loads and runs, in milliseconds.

    The pairs run alternately, so that a disturbance affects all of them.
    """
    sessions: dict[Pair, Session] = {}
    inputs = {"ws": np.zeros((1, bundle.num_ws, bundle.model["w_dim"]), np.float32)}
    inputs |= {n: np.zeros((1, 1, *size), np.float32) for n, size in bundle.noise_sizes.items()}
    inputs |= bundle.unmoved_styles(1)
    times: dict[Pair, float] = {}
    try:
        for pair in pairs:
            try:
                sessions[pair] = open_synthesis(bundle, *pair, threads)[0]
                _time_run(sessions[pair], inputs)  # the first run allocates
                times[pair] = float("inf")
            except StylertError:
                continue  # a backend that does not load or run is no candidate
        end, runs = time.perf_counter() + SECONDS * len(times), 0
        while times and (runs < MIN_RUNS or time.perf_counter() < end):
            for pair in list(times):
                try:
                    times[pair] = min(times[pair], _time_run(sessions[pair], inputs))
                except StylertError:
                    del times[pair]
            runs += 1
        return times
    finally:
        for session in sessions.values():
            session.close()


def _time_run(session: Session, inputs: dict[str, np.ndarray]) -> float:
    start = time.perf_counter()
    session.run(inputs)
    return 1000 * (time.perf_counter() - start)


def _can_run(bundle: Bundle, name: str, precision: str, threads: int | None) -> bool:
    facts = backend(name).facts
    if not facts.runs(bundle.kind, precision):
        return False
    return not facts.needs_engine or _engine_digest(bundle, name, precision, threads) is not None


def _engine_digest(bundle: Bundle, name: str, precision: str, threads: int | None) -> str | None:
    """The sha256 of the `engine.json` of the engine that would be loaded, or None if there is none."""
    try:
        folder = engine_to_load(bundle, name, precision, threads)
        return None if folder is None else sha256_of(folder / ENGINE_JSON)
    except (StylertError, OSError):
        return None


def choice_facts(bundle: Bundle, names: list[str], precision: str, threads: int | None) -> dict[str, Any]:
    """Everything that times and images of a precision on these backends depend on, as JSON values."""
    return {
        "machine": cpu_identity(),
        "cores": usable_cores(),
        "threads": threads,
        "sources": {name: bundle.files[bundle.network(precision, name)].sha256 for name in names},
        "versions": {name: backend(name).version() for name in names},
        "engines": {name: _engine_digest(bundle, name, precision, threads) for name in names},
        "gpus": [dataclasses.asdict(gpu) for gpu in find_gpus().gpus],
    }


def cache_file(cache: Path | None, facts: dict[str, Any]) -> Path:
    """The file that keeps what was measured under these facts."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return (cache or cache_folder()) / "auto" / f"{digest}.json"


def keep_numbers(file: Path, numbers: dict[str, float]) -> bool:
    """Write measured numbers. Returns whether the file could be written."""
    try:
        with atomic_file(file) as temporary:
            temporary.write_text(json.dumps(numbers), encoding="utf-8")
    except OutputError:
        return False
    return True


def read_numbers(file: Path, names: Sequence[str]) -> dict[str, float] | None:
    """Numbers of an earlier measurement; None if there are none, or the file is damaged."""
    try:
        numbers = read_document(read_file(file, BackendError, MAX_BYTES), dict[str, float], str(file), BackendError)
    except BackendError:
        return None
    return numbers if numbers and set(numbers) <= set(names) and min(numbers.values()) > 0 else None
