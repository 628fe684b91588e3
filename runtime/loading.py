"""Opens a bundle's networks as sessions, from a built engine where the bundle has one that runs on this machine."""

from __future__ import annotations

import dataclasses
import re
from functools import partial
from pathlib import Path

from stylert.core.errors import BackendError
from stylert.runtime.backends import backend
from stylert.runtime.backends.base import Backend, BuiltEngine, LoadOptions
from stylert.runtime.build_options import HARDWARE_COMPATIBLE_FROM, LATENCY, BuildOptions
from stylert.runtime.bundle import MAPPING_FILE, Bundle
from stylert.runtime.engines import (
    EngineKey,
    check_hint,
    check_precision,
    engine_facts,
    engine_folder,
    engine_key,
    has_engine,
    verified_engine,
    verify_deferred,
)
from stylert.runtime.session import Session


def open_mapping(bundle: Bundle, threads: int | None) -> Session:
    """Open the mapping network, always in float32 on ONNX Runtime: it costs little and every pixel depends on it."""
    return backend("onnxruntime").load(bundle.checked_file(MAPPING_FILE), LoadOptions("fp32", threads))


def open_synthesis(
    bundle: Bundle, backend_name: str, precision: str, threads: int | None = None, hint: str = LATENCY
) -> tuple[Session, Path | None]:
    """Open the synthesis network of a precision.

    Returns:
        The session, and the main file of the engine that it runs, or None if it runs an ONNX file.

    Raises:
        InputError: The backend does not follow the hint, or the bundle lacks the precision.
        BundleError: A file is damaged, or the library refuses it.
        BackendError: The library or its device is missing, the backend does not run the precision, or it needs an engine
            and the bundle has none for this machine.
    """
    chosen = backend(backend_name)
    bundle.precision(precision)
    check_precision(chosen, precision)
    check_hint(chosen, hint)
    options = LoadOptions(precision, threads, hint)
    folder = engine_to_load(bundle, backend_name, precision, threads, hint)
    if folder is not None:
        engine = _built_engine(bundle, chosen, precision, folder)
        return chosen.load_engine(engine, options), engine.file
    if chosen.facts.needs_engine:
        raise BackendError(
            f"{bundle.path} has no {precision} engine of this {backend_name} for this machine's GPU; "
            f"build one with: stylert build {bundle.path} --backend {backend_name} --precision {precision}"
        )
    network = bundle.checked_file(bundle.network(precision, backend_name))
    return chosen.load(network, options), None


def engine_to_load(
    bundle: Bundle, backend_name: str, precision: str, threads: int | None = None, hint: str = LATENCY
) -> Path | None:
    """The folder of the engine that `open_synthesis` loads, or None if there is none. Its bytes are not verified.

    A CPU engine must have been built with the same threads and hint. A GPU engine may have any flags, as long as it runs
    on this GPU. Engines built for exactly this GPU and version come before compatible ones, then wider batches first.

    Raises:
        StylertError: As `engine_key`; BundleError if an `engine.json` cannot be read.
    """
    facts = backend(backend_name).facts
    if facts.engine_suffix is None:
        return None
    wanted = engine_key(bundle, backend_name, precision, BuildOptions(threads=threads, hint=hint))
    if not facts.needs_engine:
        return engine_folder(bundle, wanted) if has_engine(bundle, wanted) else None
    runnable = [key for key in _keys_in(bundle, backend_name) if _runs_on(key, wanted)]
    return engine_folder(bundle, max(runnable, key=_preference)) if runnable else None


def _built_engine(bundle: Bundle, chosen: Backend, precision: str, folder: Path) -> BuiltEngine:
    file = verified_engine(folder, chosen.facts.deferred_files)
    facts = engine_facts(folder) or {}
    flags = facts["key"]["flags"]
    stripped = bool(flags.get("stripped"))
    return BuiltEngine(
        file,
        verify=partial(verify_deferred, facts),
        version_compatible=bool(flags.get("version_compatible")),
        weights=bundle.checked_file(bundle.network(precision, chosen.name)) if stripped else None,
    )


def _keys_in(bundle: Bundle, backend_name: str) -> list[EngineKey]:
    """The keys of a backend's engines in the bundle. A folder that is not named by its key is left out."""
    fields = {field.name for field in dataclasses.fields(EngineKey)}
    keys = []
    for folder in sorted((bundle.path / "engines").glob(f"{backend_name}-*")):
        entries = (engine_facts(folder) or {}).get("key")
        if not isinstance(entries, dict) or set(entries) != fields:
            continue
        key = EngineKey(**entries)
        if engine_folder(bundle, key) == folder:
            keys.append(key)
    return keys


def _runs_on(engine: EngineKey, device: EngineKey) -> bool:
    """Whether a GPU engine runs on the device and version of library that `device` describes."""
    if (engine.backend, engine.precision, engine.source_sha256) != (device.backend, device.precision, device.source_sha256):
        return False
    if engine.version != device.version:
        is_later = _numbers(engine.version) <= _numbers(device.version)
        if not (engine.flags.get("version_compatible") and is_later):
            return False
    if engine.flags.get("hardware_compatible"):
        architectures = engine.flags.get("architectures", [device.target])
        return device.target in architectures and _numbers(device.target) >= (HARDWARE_COMPATIBLE_FROM,)
    return (engine.target, engine.machine) == (device.target, device.machine)


def _preference(key: EngineKey) -> tuple[object, ...]:
    """A sort key: the preferred engine has the greatest."""
    ranges = key.flags["batch"]
    width = max(largest for _, _, largest in ranges) - min(least for least, _, _ in ranges)
    exact = [not key.flags.get(name) for name in ("hardware_compatible", "version_compatible", "stripped")]
    return (*exact, width, len(ranges), key.digest)


def _numbers(text: str) -> tuple[int, ...]:
    """The numbers in a version or in an architecture."""
    return tuple(map(int, re.findall(r"\d+", text)))
