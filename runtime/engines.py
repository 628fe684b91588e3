"""Engines: a network built for one backend and machine, kept in the bundle and reused only where everything matches."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylert.runtime.atomic import atomic_directory
from stylert.runtime.backends import backend, engine_file
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


def engine_key(bundle: Bundle, backend_name: str, precision: str, threads: int | None = None) -> EngineKey:
    """The key of an engine for this machine. Raises as `Bundle.precision`, and BackendError for a missing library."""
    module = backend(backend_name)
    entry = bundle.precision(precision)
    if not module.available():
        raise missing_extra(backend_name, module.EXTRA)
    if precision not in module.PRECISIONS:
        raise BackendError(f"backend {backend_name} runs {', '.join(module.PRECISIONS)}, not {precision}")
    return EngineKey(
        backend_name,
        module.version(),
        module.target(),
        cpu_identity(),
        precision,
        bundle.files[entry.file].sha256,
        {"threads": threads},
    )


def engine_folder(bundle: Bundle, key: EngineKey) -> Path:
    return bundle.path / "engines" / f"{key.backend}-{key.target}-{key.digest}"


def find_engine(bundle: Bundle, key: EngineKey) -> Path | None:
    """The file of a whole engine with this key, or None.

    Raises BundleError when the engine is there but its bytes are not the ones that were built.
    """
    folder = engine_folder(bundle, key)
    try:
        facts = json.loads((folder / ENGINE_JSON).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        raise BundleError(f"{folder / ENGINE_JSON} cannot be read: {e}; remove {folder} and build again") from None
    if not isinstance(facts, dict) or facts.get("key") != dataclasses.asdict(key):
        return None
    file = engine_file(folder)
    if sha256_of(file) != facts.get("sha256"):
        raise BundleError(f"engine {file} does not match its sha256; remove {folder} and build again")
    return file


def build_engine(
    bundle: Bundle, backend_name: str, precision: str, threads: int | None = None, force: bool = False
) -> dict[str, Any]:
    """Build an engine into the bundle, or find it there, and return the facts of `engine.json`, with `reused`.

    A build that fails or is interrupted leaves nothing behind.
    """
    key = engine_key(bundle, backend_name, precision, threads)
    folder = engine_folder(bundle, key)
    if not force:
        try:
            if find_engine(bundle, key) is not None:
                return {**json.loads((folder / ENGINE_JSON).read_text()), "reused": True}
        except BundleError:
            pass  # damaged: built again
    source = bundle.checked_file(bundle.precision(precision).file)
    module = backend(backend_name)
    with atomic_directory(folder) as temporary:
        file = temporary / f"engine{module.ENGINE_SUFFIX}"
        started = time.perf_counter()
        module.build(source, precision, file, threads)
        facts = {
            "key": dataclasses.asdict(key),
            "sha256": sha256_of(file),
            "bytes": file.stat().st_size,
            "build_seconds": round(time.perf_counter() - started, 3),
        }
        (temporary / ENGINE_JSON).write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")
    return {**facts, "reused": False}


def cpu_identity() -> str:
    """The processor's name and a digest of its instruction sets: what a CPU engine is specialised for."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    fields = {k.strip(): v.strip() for k, v in fields.items()}
    flags = fields.get("flags") or fields.get("Features") or ""
    return f"{fields.get('model name', platform.machine())} [{hashlib.sha256(flags.encode()).hexdigest()[:8]}]"
