"""Opens the synthesis network of a bundle as an `IncrementalSession`."""

from __future__ import annotations

from stylert.core.errors import BackendError, InputError, OutputError
from stylert.core.files.temporary import temporary_folder
from stylert.runtime.backends import available_backends, backend
from stylert.runtime.backends.base import Backend, LoadOptions
from stylert.runtime.build_options import THROUGHPUT
from stylert.runtime.bundle import Bundle
from stylert.runtime.engines import check_runs
from stylert.runtime.incremental.session import IncrementalSession, LoadedStage
from stylert.runtime.incremental.stages import Stage, cut
from stylert.runtime.network_files import checked_model
from stylert.runtime.session import StageSession


def open_incremental(bundle: Bundle, backend_name: str, precision: str, threads: int | None = None) -> IncrementalSession:
    """Open the synthesis network of a precision in stages. Built engines are not used: each holds the network as a whole.

    Raises:
        InputError: The backend runs no stages, the network is no StyleGAN2, or the bundle lacks the precision.
        BundleError: A file is damaged, cannot be cut, or the library refuses it.
        BackendError: The library is missing, does not run the precision, or there is too little memory.
    """
    chosen = backend(backend_name)
    check_incremental(chosen, bundle)
    check_runs(chosen, bundle, precision)
    file = bundle.checked_file(bundle.network(precision, backend_name))
    try:
        stages = cut(checked_model(file), bundle.resolution)
    except MemoryError:
        raise BackendError(f"not enough memory to cut {file} into stages") from None
    options = LoadOptions(precision, threads, in_turn=True)
    loaded: list[LoadedStage] = []
    try:
        for stage in stages:
            loaded.append(LoadedStage(stage.inputs, stage.outputs, _load(chosen, stage, options)))
    except BaseException:
        for opened in loaded:
            opened.session.close()
        raise
    return IncrementalSession(loaded, bundle.synthesis_tensors)


def check_one_call_at_a_time(hint: str) -> None:
    """Raise InputError for the hint of throughput, by which several calls would run at the same time."""
    if hint == THROUGHPUT:
        raise InputError(f"incremental synthesis runs one call at a time, which the hint {THROUGHPUT} is not for")


def stage_backends() -> list[str]:
    """The backends of this machine that run networks in stages."""
    return [name for name in available_backends() if backend(name).facts.stages]


def check_incremental(chosen: Backend, bundle: Bundle) -> None:
    """Raise InputError if the backend runs no stages, or the network is no StyleGAN2."""
    bundle.require_stylegan2("incremental synthesis")
    if not chosen.facts.stages:
        raise InputError(f"incremental synthesis runs on onnxruntime and openvino, not on {chosen.name}")


def _load(chosen: Backend, stage: Stage, options: LoadOptions) -> StageSession:
    with temporary_folder("stage") as folder:
        file = folder / "stage.onnx"
        try:
            file.write_bytes(stage.model.SerializeToString())
        except OSError as e:
            raise OutputError(f"cannot write {file}: {e.strerror or e}") from None
        session = chosen.load(file, options)
    assert isinstance(session, StageSession)
    return session
