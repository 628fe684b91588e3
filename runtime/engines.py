"""Engines: a network built for one backend and machine, kept in the bundle and reused only where everything matches."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylert.runtime.atomic import atomic_directory
from stylert.runtime.backends import Session, backend, engine_file
from stylert.runtime.build_options import DEFAULTS, BuildOptions, Progress
from stylert.runtime.bundle import Bundle, sha256_of
from stylert.runtime.errors import BackendError, BundleError, missing_extra

ENGINE_JSON = "engine.json"


@dataclass(frozen=True)
class EngineKey:
    """Everything that an engine depends on. Two equal keys mean that an engine can be used again."""

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


def engine_key(bundle: Bundle, backend_name: str, precision: str, options: BuildOptions = DEFAULTS) -> EngineKey:
    """The key of an engine built with `options`.

    Raises as `Bundle.precision`, BackendError for a missing library or a target that is not there, and InputError for
    options that the backend does not have.
    """
    module = backend(backend_name)
    file = bundle.network(precision, backend_name)
    if not module.available():
        raise missing_extra(backend_name, module.EXTRA)
    if precision not in module.PRECISIONS:
        raise BackendError(f"backend {backend_name} runs {', '.join(module.PRECISIONS)}, not {precision}")
    return EngineKey(
        backend_name,
        module.version(),
        module.target(options),
        module.machine(options),
        precision,
        bundle.files[file].sha256,
        module.flags(precision, options),
    )


def engine_folder(bundle: Bundle, key: EngineKey) -> Path:
    return bundle.path / "engines" / f"{key.backend}-{key.target}-{key.digest}"


def find_engine(bundle: Bundle, key: EngineKey) -> Path | None:
    """The file of a whole engine with this key, or None.

    Raises BundleError when the engine is there but its bytes are not the ones that were built.
    """
    folder = engine_folder(bundle, key)
    return checked_engine(folder) if _is(_facts(folder), key) else None


def checked_engine(folder: Path) -> Path:
    """The engine's file after comparing every byte with `engine.json`. Raises BundleError when one differs."""
    facts, file = _facts(folder) or {}, engine_file(folder)
    for name, digest in {file.name: facts.get("sha256"), **facts.get("companions", {})}.items():
        if not (folder / name).is_file() or sha256_of(folder / name) != digest:
            raise BundleError(f"engine {folder / name} does not match its sha256; remove {folder} and build again")
    return file


def engine_to_load(bundle: Bundle, backend_name: str, precision: str, threads: int | None = None) -> Path | None:
    """The folder of the engine with which a generator starts here: on a CPU the one of just these threads, on a GPU any
    that matches but for its flags, the widest batch range first. None where there is none. Its bytes are not read yet.

    Raises as `engine_key`, and BundleError for a manifest that cannot be read.
    """
    key = engine_key(bundle, backend_name, precision, BuildOptions(threads=threads))
    if not backend(backend_name).NEEDS_ENGINE:
        folder = engine_folder(bundle, key)
        return folder if _is(_facts(folder), key) else None
    found = []
    for folder in sorted((bundle.path / "engines").glob(f"{key.backend}-{key.target}-*")):
        facts = _facts(folder)
        if facts is None or not isinstance(facts.get("key"), dict) or set(facts["key"]) != set(dataclasses.asdict(key)):
            continue
        own = EngineKey(**facts["key"])
        if dataclasses.replace(own, flags=key.flags) == key and engine_folder(bundle, own) == folder:
            found.append(own)
    if not found:
        return None
    return engine_folder(bundle, max(found, key=lambda k: (k.flags["batch"][2] - k.flags["batch"][0], k.digest)))


def open_synthesis(
    bundle: Bundle, backend_name: str, precision: str, threads: int | None = None
) -> tuple[Session, Path | None]:
    """The synthesis network loaded on a backend, and the built engine that it comes from, if one is there.

    Raises as `engine_to_load`, BundleError where bytes are not those that were built, and BackendError where a backend runs
    built engines only and there is none.
    """
    module = backend(backend_name)
    folder = engine_to_load(bundle, backend_name, precision, threads)
    engine = None if folder is None else checked_engine(folder)
    if engine is None and module.NEEDS_ENGINE:
        raise BackendError(
            f"{bundle.path} has no {precision} engine of this {backend_name} for the GPU here; "
            f"build one with: stylert build {bundle.path} --backend {backend_name} --precision {precision}"
        )
    source = engine or bundle.checked_file(bundle.network(precision, backend_name))
    return module.load(source, precision, threads, built=engine is not None), engine


def build_engine(
    bundle: Bundle,
    backend_name: str,
    precision: str,
    options: BuildOptions = DEFAULTS,
    force: bool = False,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Build an engine into the bundle, or find it there, and return the facts of `engine.json`, with `reused`.

    A build that fails or is interrupted leaves nothing behind.
    """
    key = engine_key(bundle, backend_name, precision, options)
    folder = engine_folder(bundle, key)
    if not force:
        try:
            if find_engine(bundle, key) is not None:
                return {**json.loads((folder / ENGINE_JSON).read_text()), "reused": True}
        except BundleError:
            pass  # damaged: built again
    source = bundle.checked_file(bundle.network(precision, backend_name))
    module = backend(backend_name)
    with atomic_directory(folder) as temporary:
        file = temporary / f"engine{module.ENGINE_SUFFIX}"
        started = time.perf_counter()
        details = module.build(source, precision, file, options, progress)
        companions = {p.name: sha256_of(p) for p in sorted(temporary.iterdir()) if p != file}
        facts = {
            "key": dataclasses.asdict(key),
            "sha256": sha256_of(file),
            "companions": companions,
            "bytes": sum(p.stat().st_size for p in temporary.iterdir()),
            "build_seconds": round(time.perf_counter() - started, 3),
            **details,
        }
        (temporary / ENGINE_JSON).write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")
    return {**facts, "reused": False}


def _facts(folder: Path) -> dict[str, Any] | None:
    """`engine.json` of a folder, None where it has none. Raises BundleError when it cannot be read."""
    try:
        facts = json.loads((folder / ENGINE_JSON).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        raise BundleError(f"{folder / ENGINE_JSON} cannot be read: {e}; remove {folder} and build again") from None
    return facts if isinstance(facts, dict) else {}


def _is(facts: dict[str, Any] | None, key: EngineKey) -> bool:
    return facts is not None and facts.get("key") == json.loads(json.dumps(dataclasses.asdict(key)))
