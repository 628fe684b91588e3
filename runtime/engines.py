"""Built engines: a network compiled for one backend and device, stored in the bundle.

An engine is a folder `engines/<backend>-<target>-<digest>/` with the engine's own files and `engine.json`, which holds
the `EngineKey`, the sha256 of every file and facts of the build. It is reused only if its key matches in full.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylert.core.atomic import atomic_directory
from stylert.core.errors import BackendError, BundleError, InputError
from stylert.core.progress import Progress
from stylert.runtime.backends import backend
from stylert.runtime.backends.base import Backend
from stylert.runtime.build_options import DEFAULTS, THROUGHPUT, BuildOptions
from stylert.runtime.bundle import Bundle, sha256_of

ENGINE_JSON = "engine.json"


@dataclass(frozen=True)
class EngineKey:
    """All that the content of an engine depends on. Engines with equal keys are interchangeable."""

    backend: str
    version: str
    target: str
    machine: str
    precision: str
    source_sha256: str
    flags: dict[str, Any]

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:12]


def build_engine(
    bundle: Bundle,
    backend_name: str,
    precision: str,
    options: BuildOptions = DEFAULTS,
    force: bool = False,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Build an engine into the bundle, unless the bundle has it already.

    A build that fails or is interrupted leaves no files behind.

    Args:
        bundle: The bundle with the network.
        backend_name: The backend that builds.
        precision: The network's precision.
        options: Options of the build.
        force: Build even if the bundle has this engine.
        progress: Gets the stage and the percentage done.

    Returns:
        The content of `engine.json`, and `reused`: whether the engine was there already.

    Raises:
        StylertError: As `engine_key` and `Backend.build`.
    """
    key = engine_key(bundle, backend_name, precision, options)
    folder = engine_folder(bundle, key)
    if not force and _is_intact(bundle, key):
        return {**json.loads((folder / ENGINE_JSON).read_text()), "reused": True}
    network = bundle.checked_file(bundle.network(precision, backend_name))
    builder = backend(backend_name)
    with atomic_directory(folder) as temporary:
        file = temporary / f"engine{builder.facts.engine_suffix}"
        started = time.perf_counter()
        build_facts = builder.build(network, precision, file, options, progress)
        companions = {p.name: sha256_of(p) for p in sorted(temporary.iterdir()) if p != file}
        facts = {
            "key": dataclasses.asdict(key),
            "sha256": sha256_of(file),
            "companions": companions,
            "bytes": sum(p.stat().st_size for p in temporary.iterdir()),
            "build_seconds": round(time.perf_counter() - started, 3),
            **build_facts,
        }
        (temporary / ENGINE_JSON).write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")
    return {**facts, "reused": False}


def engine_key(bundle: Bundle, backend_name: str, precision: str, options: BuildOptions = DEFAULTS) -> EngineKey:
    """The key of an engine with these options.

    Raises:
        InputError: The backend builds no engines or does not have one of the options, or the bundle lacks the precision.
        BackendError: The library or its device is missing, or the backend does not run the precision.
    """
    builder = backend(backend_name)
    if builder.facts.engine_suffix is None:
        raise builder.no_engines()
    check_hint(builder, options.hint)
    file = bundle.network(precision, backend_name)
    if not builder.available():
        raise builder.missing_library()
    check_precision(builder, precision)
    return EngineKey(
        backend_name,
        builder.version(),
        builder.target(options),
        builder.machine(options),
        precision,
        bundle.files[file].sha256,
        builder.flags(precision, options),
    )


def engine_folder(bundle: Bundle, key: EngineKey) -> Path:
    return bundle.path / "engines" / f"{key.backend}-{key.target}-{key.digest}"


def engine_file(folder: Path) -> Path:
    """The main file of an engine: `engine` with the backend's suffix."""
    return next(p for p in sorted(folder.iterdir()) if p.stem == "engine" and p.suffix != ".json")


def engine_facts(folder: Path) -> dict[str, Any] | None:
    """The content of `engine.json`, or None if the folder has none. Raises BundleError if it cannot be read."""
    try:
        facts = json.loads((folder / ENGINE_JSON).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        raise BundleError(f"{folder / ENGINE_JSON} cannot be read: {e}; remove {folder} and build again") from None
    return facts if isinstance(facts, dict) else {}


def find_engine(bundle: Bundle, key: EngineKey) -> Path | None:
    """The main file of the engine with this key, or None. Raises BundleError if its bytes are not those of the build."""
    folder = engine_folder(bundle, key)
    return verified_engine(folder) if has_engine(bundle, key) else None


def has_engine(bundle: Bundle, key: EngineKey) -> bool:
    """Whether the bundle has an engine with this key. Its bytes are not verified."""
    facts = engine_facts(engine_folder(bundle, key))
    return facts is not None and facts.get("key") == json.loads(json.dumps(dataclasses.asdict(key)))


def verified_engine(folder: Path, deferred: Sequence[str] = ()) -> Path:
    """The main file of an engine, after comparing every file with its sha256 in `engine.json`.

    Files named in `deferred` must be present, but their bytes are left to `verify_deferred`.

    Raises:
        BundleError: A file is missing, or its bytes are not those of the build.
    """
    facts, file = engine_facts(folder) or {}, engine_file(folder)
    for name, digest in {file.name: facts.get("sha256"), **facts.get("companions", {})}.items():
        if name in deferred and (folder / name).is_file():
            continue
        if not (folder / name).is_file() or sha256_of(folder / name) != digest:
            raise _damaged(folder / name)
    return file


def verify_deferred(facts: dict[str, Any], file: Path, data: memoryview) -> None:
    """Compare the bytes of a file that `verified_engine` left out with `facts`, the content of `engine.json`.

    Raises:
        BundleError: The bytes are not those of the build.
    """
    if hashlib.sha256(data).hexdigest() != facts.get("companions", {}).get(file.name):
        raise _damaged(file)


def check_precision(chosen: Backend, precision: str) -> None:
    """Raise BackendError if the backend does not run the precision."""
    if precision not in chosen.facts.precisions:
        raise BackendError(f"backend {chosen.name} runs {', '.join(chosen.facts.precisions)}, not {precision}")


def check_hint(chosen: Backend, hint: str) -> None:
    """Raise InputError if the backend does not follow the hint."""
    if hint not in chosen.facts.hints:
        advice = f"; {THROUGHPUT} is for openvino" if hint == THROUGHPUT else ""
        raise InputError(f"{chosen.name} takes the hint {' or '.join(chosen.facts.hints)}, not {str(hint)[:40]!r}{advice}")


def _is_intact(bundle: Bundle, key: EngineKey) -> bool:
    """Whether the bundle has the engine, undamaged."""
    try:
        return find_engine(bundle, key) is not None
    except BundleError:
        return False


def _damaged(file: Path) -> BundleError:
    return BundleError(f"engine {file} does not match its sha256; remove {file.parent} and build again")
