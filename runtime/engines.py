"""Builds, finds and verifies the engines in a bundle. An engine is a network compiled for one backend and device.

An engine is a folder `engines/<backend>-<target>-<digest>/` with the engine's own files and `engine.json`, which holds
the `EngineKey`, the sha256 of every file and facts of the build. It is reused only if its key matches in full.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stylert.core.errors import BackendError, BundleError, InputError, shown
from stylert.core.files.atomic import atomic_directory
from stylert.core.files.digests import check_sha256, sha256_of
from stylert.core.files.inputs import read_file
from stylert.core.files.json_documents import MAX_BYTES, read_document, read_part
from stylert.core.progress import Progress
from stylert.runtime.backends import backend
from stylert.runtime.backends.base import Backend
from stylert.runtime.backends.kernel_table import EngineLayer
from stylert.runtime.batching import BatchRange
from stylert.runtime.build_options import DEFAULTS, THROUGHPUT, BuildOptions
from stylert.runtime.bundle import Bundle
from stylert.runtime.input_checks import yes_or_no
from stylert.runtime.own_engines import remember_own_engine

ENGINE_JSON = "engine.json"
#: Bytes of a file of an engine. A file of holes can have any size, and takes its time to be hashed.
MAX_ENGINE_BYTES = 2**32


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


@dataclass(frozen=True)
class GpuFlags:
    """The flags in the key of a GPU engine by which loading chooses among engines."""

    batch: list[BatchRange]
    version_compatible: bool = False
    hardware_compatible: bool = False
    stripped: bool = False
    plugins: bool = False
    architectures: list[str] | None = None

    def __post_init__(self) -> None:
        if not self.batch:
            raise ValueError("an engine has at least one batch range")


@dataclass(frozen=True)
class EngineRecord:
    """The part of `engine.json` that is used: for loading, for the table of `stylert build`, and for the times of layers.

    Attributes:
        key: The engine's key.
        sha256: Of the main file.
        bytes: Size of all files.
        build_seconds: Time of the build.
        companions: The sha256 of every other file, by its name.
        kernels: Number of kernels of a GPU engine.
        moved_bytes: Bytes that these kernels read and write.
        range: Index of the batch range that both numbers are for.
        layers: Every layer of a GPU engine.
        facts: All of `engine.json`.
    """

    key: EngineKey
    sha256: str
    bytes: int
    build_seconds: float
    companions: dict[str, str] = field(default_factory=dict)
    kernels: int = 0
    moved_bytes: int = 0
    range: int = 0
    layers: list[EngineLayer] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for digest in (self.sha256, *self.companions.values()):
            check_sha256(digest)

    @property
    def flags(self) -> GpuFlags:
        """The flags of a GPU engine. Raises BundleError if they are not such flags."""
        return read_part(self.key.flags, GpuFlags, f"the key of engine {shown(self.key.target)}", BundleError)


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
        OutputError: The folder cannot be written, or the place in it is a link. Or the bundle was replaced during the build.
    """
    force = yes_or_no(force, "force")
    key = engine_key(bundle, backend_name, precision, options)
    folder = engine_folder(bundle, key)
    if not force and _is_intact(bundle, key):
        return {**_record_of(folder).facts, "reused": True}
    builder = backend(backend_name)
    main_file = engine_file(folder, backend_name).name
    with atomic_directory(folder, lambda _: own_files(backend_name), within=bundle.path) as temporary:
        network = bundle.checked_file(source_file(bundle, backend_name, precision, options.plugins))
        file = temporary / main_file
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
        (temporary / ENGINE_JSON).write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    remember_own_engine(facts["sha256"])
    return {**facts, "reused": False}


def engine_key(bundle: Bundle, backend_name: str, precision: str, options: BuildOptions = DEFAULTS) -> EngineKey:
    """The key of an engine with these options.

    Raises:
        InputError: The backend builds no engines or does not have one of the options, or the bundle lacks the precision.
        BackendError: The library or its device is missing, or the backend does not run the precision.
    """
    if not isinstance(bundle, Bundle) or not isinstance(options, BuildOptions):
        raise InputError(f"an engine is built of a Bundle with BuildOptions, not of {shown(bundle)} with {shown(options)}")
    builder = backend(backend_name)
    if builder.facts.engine_suffix is None:
        raise builder.no_engines()
    check_hint(builder, options.hint)
    file = source_file(bundle, backend_name, precision, options.plugins)
    if not builder.available():
        raise builder.missing_library()
    check_runs(builder, bundle, precision)
    return EngineKey(
        backend_name,
        builder.version(),
        builder.target(options),
        builder.machine(options),
        precision,
        bundle.files[file].sha256,
        builder.flags(precision, options),
    )


def source_file(bundle: Bundle, backend_name: str, precision: str, plugins: bool) -> str:
    """The name of the bundle's file of which an engine is built. Plugins need the operator nodes of the canonical file.

    Raises:
        InputError: The bundle lacks the precision.
    """
    return bundle.precision(precision).file if plugins else bundle.network(precision, backend_name)


def engine_folder(bundle: Bundle, key: EngineKey) -> Path:
    return bundle.path / "engines" / f"{key.backend}-{key.target}-{key.digest}"


def engine_file(folder: Path, backend_name: str) -> Path:
    """The path of an engine's main file: `engine` with the backend's suffix."""
    return folder / f"engine{backend(backend_name).facts.engine_suffix}"


def own_files(backend_name: str) -> list[str]:
    """The names of the files that a build for a backend writes into an engine's folder. Empty if it builds no engines."""
    facts = backend(backend_name).facts
    return [] if facts.engine_suffix is None else [ENGINE_JSON, f"engine{facts.engine_suffix}", *facts.companion_files]


def read_record(folder: Path) -> EngineRecord | None:
    """The content of `engine.json`, or None if there is none. Raises BundleError if it is not valid."""
    file = folder / ENGINE_JSON
    if not file.exists():
        return None
    advice = f"build it again: stylert build {folder.parent.parent}"
    try:
        content = read_document(read_file(file, BundleError, MAX_BYTES), dict[str, Any], str(file), BundleError)
        record = read_part(content, EngineRecord, str(file), BundleError)
    except BundleError as e:
        raise BundleError(f"{e}; {advice}") from None
    return dataclasses.replace(record, facts=content)


def find_engine(bundle: Bundle, key: EngineKey) -> Path | None:
    """The main file of the engine with this key, or None. Raises BundleError if its bytes are not those of the build."""
    folder = engine_folder(bundle, key)
    return verified_engine(folder, key.backend) if has_engine(bundle, key) else None


def has_engine(bundle: Bundle, key: EngineKey) -> bool:
    """Whether the bundle has an engine with this key. Its bytes are not verified."""
    record = read_record(engine_folder(bundle, key))
    return record is not None and dataclasses.asdict(record.key) == json.loads(json.dumps(dataclasses.asdict(key)))


def verified_engine(folder: Path, backend_name: str, all_files: bool = True) -> Path:
    """The main file of an engine, after comparing every file that its backend opens with its sha256 in `engine.json`.

    Args:
        folder: The engine's folder.
        backend_name: The backend that opens it.
        all_files: With False, the bytes of the backend's `deferred_files` are left to `verify_deferred`. They must be present.

    Raises:
        BundleError: A file is missing, is not listed, or its bytes are not those of the build.
    """
    record, file, facts = _record_of(folder), engine_file(folder, backend_name), backend(backend_name).facts
    if unknown := sorted(set(record.companions) - set(facts.companion_files)):
        raise _damaged(folder, f"{ENGINE_JSON} lists {shown(unknown[0])}, which is no file of an engine of {backend_name}")
    _compare(file, record.sha256)
    for name in facts.companion_files:
        companion = folder / name
        if name not in record.companions and not companion.exists():
            continue
        if all_files or name not in facts.deferred_files or not companion.is_file():
            _compare(companion, record.companions.get(name))
    return file


def verify_deferred(record: EngineRecord, file: Path, data: memoryview) -> None:
    """Compare the bytes of a file that `verified_engine` left out with the engine's record.

    Raises:
        BundleError: The bytes are not those of the build.
    """
    if hashlib.sha256(data).hexdigest() != record.companions.get(file.name):
        raise _damaged(file.parent, f"{file.name} does not match its sha256")


def check_runs(chosen: Backend, bundle: Bundle, precision: str) -> None:
    """Raise BackendError if the backend does not run this kind of network, or not in this precision."""
    check_network_kind(chosen, bundle)
    if precision not in chosen.facts.precisions:
        raise BackendError(f"backend {chosen.name} runs {', '.join(chosen.facts.precisions)}, not {precision}")


def check_network_kind(chosen: Backend, bundle: Bundle) -> None:
    """Raise BackendError if the backend does not run this kind of network."""
    if bundle.kind not in chosen.facts.networks:
        runs = ", ".join(kind.title for kind in chosen.facts.networks)
        raise BackendError(f"backend {chosen.name} runs {runs}, not {bundle.kind.title}")


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


def _record_of(folder: Path) -> EngineRecord:
    """The record of an engine. Raises BundleError if there is none, or it is not valid."""
    record = read_record(folder)
    if record is None:
        raise _damaged(folder, f"{ENGINE_JSON} is missing")
    return record


def _compare(file: Path, digest: str | None) -> None:
    """Raise BundleError unless a file of an engine has this sha256. None: `engine.json` does not list it."""
    if not file.is_file():
        raise _damaged(file.parent, f"{file.name} is missing")
    if digest is None:
        raise _damaged(file.parent, f"{file.name} is not listed in {ENGINE_JSON}")
    if file.stat().st_size > MAX_ENGINE_BYTES:
        raise _damaged(file.parent, f"{file.name} is larger than {MAX_ENGINE_BYTES / 2**30:.0f} GiB")
    if sha256_of(file, BundleError, "engine file") != digest:
        raise _damaged(file.parent, f"{file.name} does not match its sha256")


def _damaged(folder: Path, problem: str) -> BundleError:
    return BundleError(f"engine {folder} is damaged: {problem}; build it again: stylert build {folder.parent.parent}")
