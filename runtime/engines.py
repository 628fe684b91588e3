"""Engines: a network built for one backend and machine, kept in the bundle and reused only where everything matches."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from stylert.core.atomic import atomic_directory
from stylert.core.errors import BackendError, BundleError, InputError, missing_extra
from stylert.core.progress import Progress
from stylert.runtime.backends import backend, engine_file
from stylert.runtime.build_options import DEFAULTS, LATENCY, BuildOptions
from stylert.runtime.bundle import Bundle, sha256_of
from stylert.runtime.session import Session

ENGINE_JSON = "engine.json"
#: The architecture from which on hardware-compatible engines run
AMPERE = (80,)


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
    options that the backend does not have, or for a backend that builds nothing.
    """
    module = backend(backend_name)
    if module.ENGINE_SUFFIX is None:
        raise InputError(f"{backend_name} has no engines to build: it runs the bundle as it is")
    _check_hint(backend_name, options.hint)
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


def checked_engine(folder: Path, later: Sequence[str] = ()) -> Path:
    """The engine's file after comparing every byte with `engine.json`. Raises BundleError when one differs.

    Files whose names are in `later` have to be there; their bytes are compared by the backend, when it first reads them.
    """
    facts, file = _facts(folder) or {}, engine_file(folder)
    for name, digest in {file.name: facts.get("sha256"), **facts.get("companions", {})}.items():
        if name in later and (folder / name).is_file():
            continue
        if not (folder / name).is_file() or sha256_of(folder / name) != digest:
            raise _damaged(folder / name)
    return file


def _check_companion(facts: dict[str, Any], file: Path, data: memoryview) -> None:
    """What `checked_engine` left for later."""
    if hashlib.sha256(data).hexdigest() != facts.get("companions", {}).get(file.name):
        raise _damaged(file)


def _damaged(file: Path) -> BundleError:
    return BundleError(f"engine {file} does not match its sha256; remove {file.parent} and build again")


def engine_to_load(
    bundle: Bundle, backend_name: str, precision: str, threads: int | None = None, hint: str = LATENCY
) -> Path | None:
    """The folder of the engine with which a generator starts here. None where there is none. Its bytes are not read yet.

    On a CPU it is the one of just these threads and this hint. On a GPU any that can run here, whatever its flags: those made for this
    GPU and version before compatible ones, and of these the one with the widest batch range.

    Raises as `engine_key`, and BundleError for a manifest that cannot be read.
    """
    if backend(backend_name).ENGINE_SUFFIX is None:
        return None
    key = engine_key(bundle, backend_name, precision, BuildOptions(threads=threads, hint=hint))
    if not backend(backend_name).NEEDS_ENGINE:
        folder = engine_folder(bundle, key)
        return folder if _is(_facts(folder), key) else None
    found = []
    for folder in sorted((bundle.path / "engines").glob(f"{key.backend}-*")):
        facts = _facts(folder)
        if facts is None or not isinstance(facts.get("key"), dict) or set(facts["key"]) != set(dataclasses.asdict(key)):
            continue
        own = EngineKey(**facts["key"])
        if engine_folder(bundle, own) == folder and _runs_here(own, key):
            found.append(own)
    return engine_folder(bundle, max(found, key=_preference)) if found else None


def _runs_here(engine: EngineKey, here: EngineKey) -> bool:
    """Whether a GPU engine runs where `here` would be built."""
    if (engine.backend, engine.precision, engine.source_sha256) != (here.backend, here.precision, here.source_sha256):
        return False
    if engine.version != here.version and not (
        engine.flags.get("version_compatible") and _numbers(engine.version) <= _numbers(here.version)
    ):
        return False
    if engine.flags.get("hardware_compatible"):
        return here.target in engine.flags.get("architectures", [here.target]) and _numbers(here.target) >= AMPERE
    return (engine.target, engine.machine) == (here.target, here.machine)


def _preference(key: EngineKey) -> tuple[object, ...]:
    ranges = key.flags["batch"]
    width = max(most for _, _, most in ranges) - min(least for least, _, _ in ranges)
    flags = [not key.flags.get(name) for name in ("hardware_compatible", "version_compatible", "stripped")]
    return (*flags, width, len(ranges), key.digest)


def _numbers(text: str) -> tuple[int, ...]:
    """The numbers of a version or of an architecture."""
    return tuple(map(int, re.findall(r"\d+", text)))


def open_synthesis(
    bundle: Bundle, backend_name: str, precision: str, threads: int | None = None, hint: str = LATENCY
) -> tuple[Session, Path | None]:
    """The synthesis network loaded on a backend, and the built engine that it comes from, if one is there.

    Raises as `engine_to_load`, InputError for a hint that the backend does not know, BundleError where bytes are not those
    that were built, and BackendError where a backend runs built engines only and there is none.
    """
    module = backend(backend_name)
    bundle.precision(precision)
    if precision not in module.PRECISIONS:
        raise BackendError(f"backend {backend_name} runs {', '.join(module.PRECISIONS)}, not {precision}")
    _check_hint(backend_name, hint)
    folder = engine_to_load(bundle, backend_name, precision, threads, hint)
    read_later = getattr(module, "READ_LATER", ())
    engine = None if folder is None else checked_engine(folder, read_later)
    if engine is None and module.NEEDS_ENGINE:
        raise BackendError(
            f"{bundle.path} has no {precision} engine of this {backend_name} for the GPU here; "
            f"build one with: stylert build {bundle.path} --backend {backend_name} --precision {precision}"
        )
    if folder is not None and engine is not None and module.NEEDS_ENGINE:
        flags = (_facts(folder) or {})["key"]["flags"]
        weights = bundle.checked_file(bundle.network(precision, backend_name)) if flags.get("stripped") else None
        return module.load_engine(engine, weights, bool(flags.get("version_compatible"))), engine
    source = engine or bundle.checked_file(bundle.network(precision, backend_name))
    more: dict[str, Any] = {} if hint == LATENCY else {"hint": hint}
    if folder is not None and read_later:
        more["check"] = partial(_check_companion, _facts(folder) or {})
    return module.load(source, precision, threads, built=engine is not None, **more), engine


def _check_hint(backend_name: str, hint: str) -> None:
    known = getattr(backend(backend_name), "HINTS", (LATENCY,))
    if hint not in known:
        raise InputError(
            f"{backend_name} takes no hint but {' or '.join(known)}, not {str(hint)[:40]!r}: others are for openvino"
        )


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
