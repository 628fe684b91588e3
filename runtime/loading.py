"""Opens a bundle's networks as sessions, from a built engine where the bundle has one that runs on this machine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from stylert.core.errors import BackendError, BundleError, InputError, shown, shown_line
from stylert.runtime.backends import backend
from stylert.runtime.backends.base import Backend, BuiltEngine, LoadOptions
from stylert.runtime.build_options import HARDWARE_COMPATIBLE_FROM, LATENCY, BuildOptions
from stylert.runtime.bundle import MANIFEST, Bundle
from stylert.runtime.bundle_manifest import MAPPING_FILE
from stylert.runtime.bundle_signature import covers_engine
from stylert.runtime.engines import (
    EngineKey,
    EngineRecord,
    check_hint,
    check_runs,
    engine_folder,
    engine_key,
    has_engine,
    read_record,
    source_file,
    verified_engine,
    verify_deferred,
)
from stylert.runtime.session import Session, TensorSpec


def open_mapping(bundle: Bundle, threads: int | None) -> Session:
    """Open the mapping network, always in float32 on ONNX Runtime: it costs little and every pixel depends on it.

    Raises:
        BundleError: The file is damaged, or its inputs and outputs are not those of the manifest.
    """
    file = bundle.checked_file(MAPPING_FILE)
    return _checked(backend("onnxruntime").load(file, LoadOptions("fp32", threads)), bundle.mapping_tensors, file)


def open_encoder(bundle: Bundle, precision: str, threads: int | None) -> Session:
    """Open the encoder network of a precision on ONNX Runtime.

    Raises:
        InputError: The bundle has no encoder of this precision.
        BundleError: The file is damaged, or its inputs and outputs are not those of the manifest.
    """
    if not isinstance(precision, str) or precision not in bundle.encoder:
        found = f"only in: {', '.join(bundle.encoder)}" if bundle.encoder else "in no precision"
        raise InputError(
            f"bundle {bundle.path} has no {shown(precision)} encoder, {found}; "
            "`stylert encoder train` and `stylert encoder export` add one"
        )
    file = bundle.checked_file(bundle.encoder[precision].file)
    return _checked(backend("onnxruntime").load(file, LoadOptions(precision, threads)), bundle.encoder_tensors, file)


def open_synthesis(
    bundle: Bundle, backend_name: str, precision: str, threads: int | None = None, hint: str = LATENCY
) -> tuple[Session, Path | None]:
    """Open the synthesis network of a precision.

    Returns:
        The session, and the main file of the engine that it runs, or None if it runs an ONNX file.

    Raises:
        InputError: The backend does not follow the hint, or the bundle lacks the precision.
        BundleError: A file is damaged, the library refuses it, or its inputs and outputs are not those of the manifest.
        BackendError: The library or its device is missing, the backend does not run the precision, or it needs an engine
            and the bundle has none for this machine.
    """
    chosen = backend(backend_name)
    bundle.precision(precision)
    check_runs(chosen, bundle, precision)
    check_hint(chosen, hint)
    options = LoadOptions(precision, threads, hint)
    folder = engine_to_load(bundle, backend_name, precision, threads, hint)
    if folder is not None:
        engine = _built_engine(bundle, chosen, precision, folder)
        return _checked(chosen.load_engine(engine, options), bundle.synthesis_tensors, engine.file), engine.file
    if chosen.facts.needs_engine:
        covered = "" if bundle.signed_engines is None else " that its signature covers"
        raise BackendError(
            f"{bundle.path} has no {precision} engine of this {backend_name} for this machine's GPU{covered}; "
            f"build one with: stylert build {bundle.path} --backend {backend_name} --precision {precision}"
        )
    network = bundle.checked_file(bundle.network(precision, backend_name))
    return _checked(chosen.load(network, options), bundle.synthesis_tensors, network), None


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
        folder = engine_folder(bundle, wanted)
        return folder if has_engine(bundle, wanted) and covers_engine(bundle.signed_engines, folder) else None
    of_plugins = bundle.files[source_file(bundle, backend_name, precision, plugins=True)].sha256
    runnable = [
        (record, path)
        for record, path in bundle_engines(bundle, backend_name)
        if _runs_on(record, wanted, of_plugins) and covers_engine(bundle.signed_engines, path)
    ]
    return max(runnable, key=lambda engine: _preference(engine[0]))[1] if runnable else None


def _checked(session: Session, expected: Sequence[TensorSpec], file: Path) -> Session:
    """The session, if it has exactly these inputs and this output, in any order. Otherwise it is closed.

    Raises:
        BundleError: A tensor is missing, or has another shape or type.
    """
    actual = {tensor.name: tensor for tensor in session.tensors}
    for tensor in expected:
        if actual.get(tensor.name) != tensor:
            session.close()
            found = actual.get(tensor.name, "none of that name")
            raise BundleError(f"{file} does not fit {MANIFEST}, which says {tensor}: it has {shown_line(str(found))}")
    if others := sorted(set(actual) - {tensor.name for tensor in expected}):
        session.close()
        raise BundleError(f"{file} does not fit {MANIFEST}: it also has {shown_line(str(actual[others[0]]))}")
    return session


def _built_engine(bundle: Bundle, chosen: Backend, precision: str, folder: Path) -> BuiltEngine:
    file = verified_engine(folder, chosen.name, all_files=False)
    record = read_record(folder)
    if record is None:
        raise BundleError(f"engine {folder} is being replaced; load it again")
    stripped = chosen.facts.needs_engine and record.flags.stripped
    return BuiltEngine(
        file,
        verify=partial(verify_deferred, record),
        version_compatible=chosen.facts.needs_engine and record.flags.version_compatible,
        weights=bundle.checked_file(bundle.network(precision, chosen.name)) if stripped else None,
        sha256=record.sha256,
    )


def bundle_engines(bundle: Bundle, backend_name: str) -> list[tuple[EngineRecord, Path]]:
    """The records and folders of a backend's engines in the bundle. A folder that is not named by its key is left out."""
    engines = []
    for folder in sorted((bundle.path / "engines").glob(f"{backend_name}-*")):
        record = read_record(folder)
        if record is not None and engine_folder(bundle, record.key) == folder:
            engines.append((record, folder))
    return engines


def _runs_on(engine: EngineRecord, device: EngineKey, of_plugins: str) -> bool:
    """Whether a GPU engine runs on the device and version of library that `device` describes.

    `of_plugins` is the sha256 of the network of which engines with plugins are built.
    """
    key = engine.key
    source = of_plugins if engine.flags.plugins else device.source_sha256
    if (key.backend, key.precision, key.source_sha256) != (device.backend, device.precision, source):
        return False
    if key.version != device.version:
        is_later = _numbers(key.version) <= _numbers(device.version)
        if not (engine.flags.version_compatible and is_later):
            return False
    if engine.flags.hardware_compatible:
        architectures = engine.flags.architectures or [device.target]
        return device.target in architectures and _numbers(device.target) >= (HARDWARE_COMPATIBLE_FROM,)
    return (key.target, key.machine) == (device.target, device.machine)


def _preference(engine: EngineRecord) -> tuple[object, ...]:
    """A sort key: the preferred engine has the greatest."""
    flags = engine.flags
    width = max(largest for _, _, largest in flags.batch) - min(least for least, _, _ in flags.batch)
    exact = [not flags.hardware_compatible, not flags.version_compatible, not flags.stripped]
    return (*exact, width, len(flags.batch), engine.key.digest)


def _numbers(text: str) -> tuple[int, ...]:
    """The numbers in a version or in an architecture."""
    return tuple(map(int, re.findall(r"[0-9]{1,9}", text)))
