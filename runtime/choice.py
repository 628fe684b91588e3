"""`backend="auto"`: the fastest backend of this machine for this network, measured once and remembered.

No fixed order would be right: which CPU backend wins depends on the network's size, the precision and the processor's
instruction sets, and changes with the libraries' versions. So the first use measures single images, for at most a few
seconds, and the user's cache folder keeps the result for as long as nothing of that changes.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from stylert.core.atomic import atomic_file
from stylert.core.cache import cache_folder
from stylert.core.errors import BackendError, OutputError, StylertError
from stylert.core.host import cpu_identity, usable_cores
from stylert.runtime.backends import available_backends, backend
from stylert.runtime.bundle import Bundle
from stylert.runtime.engines import engine_to_load, open_synthesis
from stylert.runtime.session import Session

#: Each candidate runs at least this often, and until this time is up; the fastest run counts, as others only disturb.
MIN_RUNS, SECONDS = 3, 0.5


def choose_backend(bundle: Bundle, precision: str, threads: int | None = None, cache: Path | None = None) -> tuple[str, str]:
    """The fastest backend that runs `precision` here, and why, in one line for people.

    `cache` is the folder that remembers measurements, the user's own by default; one that cannot be written only means
    that the next start measures again. Raises InputError when the bundle lacks the precision, and BackendError when no
    backend runs it.
    """
    bundle.precision(precision)
    names = [n for n in available_backends() if precision in backend(n).PRECISIONS]
    usable = [n for n in names if not backend(n).NEEDS_ENGINE or _has_engine(bundle, n, precision, threads)]
    if not usable:
        raise BackendError(f"no backend here runs {precision}; stylert doctor says what is missing")
    if len(usable) == 1:
        return usable[0], f"{usable[0]} is the only backend here that runs {precision}"
    file = (cache or cache_folder()) / "auto" / f"{_digest(bundle, usable, precision, threads)}.json"
    times, when = _remembered(file, usable), "measured before"
    if times is None:
        times, when = measure(bundle, usable, precision, threads), "measured now"
        try:
            with atomic_file(file) as temporary:
                temporary.write_text(json.dumps(times))
        except OutputError:
            when += ", and not remembered: the cache folder cannot be written"
    if not times:
        raise BackendError(f"no backend here loads the {precision} network of {bundle.path}; try --backend onnxruntime for why")
    best = min(times, key=times.__getitem__)
    shown = ", ".join(f"{name} {times[name]:.1f} ms" for name in sorted(times, key=times.__getitem__))
    return best, f"{best} is the fastest for one {precision} image: {shown} ({when})"


def measure(bundle: Bundle, names: list[str], precision: str, threads: int | None) -> dict[str, float]:
    """Milliseconds for one image on each backend that loads; the backends take turns, so that disturbances meet all."""
    sessions: dict[str, Session] = {}
    try:
        for name in names:
            try:
                sessions[name] = open_synthesis(bundle, name, precision, threads)[0]
            except StylertError:
                continue  # it does not work here, so it is not a candidate
        inputs = {"ws": np.zeros((1, bundle.num_ws, bundle.model["w_dim"]), np.float32)}
        inputs |= {n: np.zeros((1, 1, side, side), np.float32) for n, side in bundle.noise_inputs.items()}
        for session in sessions.values():
            session.run(inputs)  # the first run allocates
        best = dict.fromkeys(sessions, float("inf"))
        end, runs = time.perf_counter() + SECONDS * len(sessions), 0
        while sessions and (runs < MIN_RUNS or time.perf_counter() < end):
            for name, session in sessions.items():
                start = time.perf_counter()
                session.run(inputs)
                best[name] = min(best[name], 1000 * (time.perf_counter() - start))
            runs += 1
        return best
    finally:
        for session in sessions.values():
            session.close()


def _has_engine(bundle: Bundle, name: str, precision: str, threads: int | None) -> bool:
    try:
        return engine_to_load(bundle, name, precision, threads) is not None
    except StylertError:
        return False


def _digest(bundle: Bundle, names: list[str], precision: str, threads: int | None) -> str:
    facts: dict[str, Any] = {
        "machine": cpu_identity(),
        "cores": usable_cores(),
        "threads": threads,
        "sources": {name: bundle.files[bundle.network(precision, name)].sha256 for name in names},
        "versions": {name: backend(name).version() for name in names},
        "engines": {name: _has_engine(bundle, name, precision, threads) for name in names},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _remembered(file: Path, names: list[str]) -> dict[str, float] | None:
    """Times of an earlier measurement; None where there is none, or what is there makes no sense."""
    try:
        times = json.loads(file.read_text())
        if isinstance(times, dict) and times and set(times) <= set(names):
            return {str(n): float(t) for n, t in times.items() if 0 < float(t) < float("inf")} or None
    except (OSError, ValueError, TypeError):
        pass
    return None
