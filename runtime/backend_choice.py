"""`backend="auto"`: measures which backend is the fastest on this machine, and remembers the result.

The order of the backends depends on the network, the precision, the processor and the libraries' versions. The first use
measures single images, for a few seconds. The user's cache folder keeps the times until one of these changes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from stylert.core.errors import BackendError, OutputError, StylertError
from stylert.core.files.atomic import atomic_file
from stylert.core.files.cache import cache_folder
from stylert.core.files.inputs import read_file
from stylert.core.files.json_documents import MAX_BYTES, read_document
from stylert.core.machine.devices import find_gpus
from stylert.core.machine.host import cpu_identity, usable_cores
from stylert.runtime.backends import available_backends, backend
from stylert.runtime.bundle import Bundle, sha256_of
from stylert.runtime.engines import ENGINE_JSON
from stylert.runtime.loading import engine_to_load, open_synthesis
from stylert.runtime.session import Session

#: Every backend runs at least `MIN_RUNS` times, and all of them for `SECONDS` each.
MIN_RUNS, SECONDS = 3, 0.5


def choose_backend(bundle: Bundle, precision: str, threads: int | None = None, cache: Path | None = None) -> tuple[str, str]:
    """Choose the fastest backend for one image.

    Args:
        bundle: The bundle.
        precision: The precision to run.
        threads: CPU threads; None leaves the number to the library.
        cache: The folder that keeps the times, by default in the user's cache folder. If it cannot be written, the next
            start measures again.

    Returns:
        The backend's name, and the reason for it in one line.

    Raises:
        InputError: The bundle lacks the precision.
        BackendError: No backend on this machine runs the precision.
    """
    bundle.precision(precision)
    names = [name for name in available_backends() if _can_run(bundle, name, precision, threads)]
    if not names:
        raise BackendError(f"no backend here runs {precision}; stylert doctor says what is missing")
    if len(names) == 1:
        return names[0], f"{names[0]} is the only backend here that runs {precision}"
    file = (cache or cache_folder()) / "auto" / f"{_digest(bundle, names, precision, threads)}.json"
    times, source = _read_times(file, names), "measured before"
    if times is None:
        times, source = measure(bundle, names, precision, threads), "measured now"
        try:
            with atomic_file(file) as temporary:
                temporary.write_text(json.dumps(times))
        except OutputError:
            source += ", and not remembered: the cache folder cannot be written"
    if not times:
        raise BackendError(f"no backend here loads the {precision} network of {bundle.path}; try --backend onnxruntime for why")
    order = sorted(times, key=times.__getitem__)
    all_times = ", ".join(f"{name} {times[name]:.1f} ms" for name in order)
    return order[0], f"{order[0]} is the fastest for one {precision} image: {all_times} ({source})"


def measure(bundle: Bundle, names: list[str], precision: str, threads: int | None) -> dict[str, float]:
    """The least time of one image on each backend that loads and runs, in milliseconds.

    The backends run alternately, so that a disturbance affects all of them.
    """
    sessions: dict[str, Session] = {}
    inputs = {"ws": np.zeros((1, bundle.num_ws, bundle.model["w_dim"]), np.float32)}
    inputs |= {n: np.zeros((1, 1, side, side), np.float32) for n, side in bundle.noise_inputs.items()}
    times: dict[str, float] = {}
    try:
        for name in names:
            try:
                sessions[name] = open_synthesis(bundle, name, precision, threads)[0]
                _time_run(sessions[name], inputs)  # the first run allocates
                times[name] = float("inf")
            except StylertError:
                continue  # a backend that does not load or run is no candidate
        end, runs = time.perf_counter() + SECONDS * len(times), 0
        while times and (runs < MIN_RUNS or time.perf_counter() < end):
            for name in list(times):
                try:
                    times[name] = min(times[name], _time_run(sessions[name], inputs))
                except StylertError:
                    del times[name]
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
    if precision not in facts.precisions:
        return False
    return not facts.needs_engine or _engine_digest(bundle, name, precision, threads) is not None


def _engine_digest(bundle: Bundle, name: str, precision: str, threads: int | None) -> str | None:
    """The sha256 of the `engine.json` of the engine that would be loaded, or None if there is none."""
    try:
        folder = engine_to_load(bundle, name, precision, threads)
        return None if folder is None else sha256_of(folder / ENGINE_JSON)
    except (StylertError, OSError):
        return None


def _digest(bundle: Bundle, names: list[str], precision: str, threads: int | None) -> str:
    """A digest of everything that the times depend on."""
    facts: dict[str, Any] = {
        "machine": cpu_identity(),
        "cores": usable_cores(),
        "threads": threads,
        "sources": {name: bundle.files[bundle.network(precision, name)].sha256 for name in names},
        "versions": {name: backend(name).version() for name in names},
        "engines": {name: _engine_digest(bundle, name, precision, threads) for name in names},
        "gpus": [dataclasses.asdict(gpu) for gpu in find_gpus().gpus],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _read_times(file: Path, names: list[str]) -> dict[str, float] | None:
    """Times of an earlier measurement; None if there are none, or the file is damaged."""
    try:
        times = read_document(read_file(file, BackendError, MAX_BYTES), dict[str, float], str(file), BackendError)
    except BackendError:
        return None
    return times if times and set(times) <= set(names) and min(times.values()) > 0 else None
