"""MNN on the CPU: Alibaba's library for phones and boards, whose float convolutions use Winograd's algorithm.

MNN has a format of its own, into which `mnn_network` converts. An engine is this file. It is the same for every
processor, and for MNN in C++ on a phone (docs/embedding.md).
"""

from __future__ import annotations

import importlib.util
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from stylert.core.errors import BackendError, BundleError, install_command
from stylert.core.files.temporary import temporary_folder
from stylert.core.machine.host import usable_cores
from stylert.core.progress import Progress
from stylert.core.standard_streams import silent_stdout
from stylert.runtime.backends.base import Backend, BackendFacts, BuiltEngine, LoadOptions, reason
from stylert.runtime.backends.mnn_network import OPTIONS, convert
from stylert.runtime.build_options import BuildOptions, refuse_gpu_options
from stylert.runtime.forking import ForkGuard
from stylert.runtime.session import HostInputs, TensorSpec

#: MNN ends the process if a batch does not fit into memory. So larger batches run in chunks of this size.
MAX_BATCH = 16


class Mnn(Backend):
    """Engines are networks in MNN's format. In int8 the weights have 8 bits, and the arithmetic is float."""

    facts = BackendFacts(
        name="mnn",
        library="MNN",
        install=install_command("mnn"),
        precisions=tuple(OPTIONS),
        engine_suffix=".mnn",
    )

    def available(self) -> bool:
        return importlib.util.find_spec("MNN") is not None

    def version(self) -> str:
        return str(library().version())

    def load(self, network: Path, options: LoadOptions) -> MnnSession:
        library()
        with temporary_folder("mnn") as folder:
            file = folder / "network.mnn"
            convert(network, options.precision, file)
            return open_file(file, options.threads, network)

    def load_engine(self, engine: BuiltEngine, options: LoadOptions) -> MnnSession:
        library()
        return open_file(engine.file, options.threads, engine.file)

    def target(self, options: BuildOptions) -> str:
        refuse_gpu_options(self.name, options)
        return "cpu"

    def machine(self, options: BuildOptions) -> str:
        return ""  # every processor runs the same file

    def flags(self, precision: str, options: BuildOptions) -> dict[str, Any]:
        return {}  # the number of threads is chosen when the file is loaded

    def build(self, network: Path, precision: str, engine: Path, options: BuildOptions, progress: Progress) -> dict[str, Any]:
        library()
        convert(network, precision, engine)
        # The converter reports success for networks that MNN cannot run.
        open_file(engine, options.threads, network).close()
        return {}


def library() -> Any:
    """The module `MNN`. All of stylert imports it here, since it prints a line about the processor when it is imported.

    Raises:
        BackendError: MNN is not installed.
    """
    try:
        return _imported()
    except ImportError:
        raise BACKEND.missing_library() from None


def open_file(file: Path, threads: int | None, source: Path) -> MnnSession:
    """Open a file in MNN's format.

    Args:
        file: The file.
        threads: The number of threads, or None for all cores.
        source: The file that an error names.

    Raises:
        BackendError: MNN is not installed.
        BundleError: MNN refuses the file.
    """
    mnn = library()
    try:
        with silent_stdout():
            return MnnSession(mnn.Interpreter(str(file)), threads)
    except BackendError:
        raise
    except MemoryError:
        raise BackendError(f"not enough memory to load {source}") from None
    except Exception as e:  # MNN raises Exception itself
        raise BundleError(f"MNN cannot load {source}: {reason(e)}") from None


@dataclass(frozen=True)
class _Native:
    """MNN's `Interpreter`, which holds the network, and its `Session`, which holds the memory to run it."""

    interpreter: Any
    session: Any


class MnnSession:
    """A `Session` of MNN. One call runs at a time, and others wait.

    Args:
        interpreter: MNN's `Interpreter`, which holds the network.
        threads: The number of threads, or None for all cores.
    """

    device = "cpu"
    ranges = ((1, 1, MAX_BATCH),)
    concurrency = 1
    notes: tuple[str, ...] = ()

    def __init__(self, interpreter: Any, threads: int | None) -> None:
        _FORK_GUARD.enter()
        self._lock, self._batch = threading.Lock(), 0
        # On a CPU, "normal" computes in float32. "high" does the same, and prints a line.
        config = {"backend": "CPU", "precision": "normal", "numThread": threads or usable_cores()}
        self._session = _Native(interpreter, interpreter.createSession(config))
        self._inputs = dict(interpreter.getSessionInputAll(self._session.session))
        self._resize(1)
        outputs = dict(interpreter.getSessionOutputAll(self._session.session))
        self.tensors = [_tensor_spec(name, True, tensor) for name, tensor in self._inputs.items()]
        self.tensors += [_tensor_spec(name, False, tensor) for name, tensor in outputs.items()]
        self._dtype = next(tensor.dtype for tensor in self.tensors if not tensor.is_input)

    def run(self, inputs: HostInputs) -> np.ndarray:
        _FORK_GUARD.enter()
        with self._lock:
            self._resize(len(next(iter(inputs.values()))))
            for name, tensor in self._inputs.items():
                values = np.ascontiguousarray(inputs[name], np.float32)
                tensor.copyFrom(_host_tensor(values, tensor))
            interpreter, session = self._session.interpreter, self._session.session
            if code := interpreter.runSession(session):
                raise BackendError(f"MNN cannot run this network: error {code}")
            output = interpreter.getSessionOutput(session)
            host = _host_tensor(np.empty(output.getShape(), self._dtype), output)
            output.copyToHostTensor(host)
            image: np.ndarray = host.getNumpyData().copy()  # its memory ends with `host`
        return image

    def close(self) -> None:
        self._inputs = {}
        del self._session

    def _resize(self, batch: int) -> None:
        if batch == self._batch:
            return
        self._batch = 0  # in case that MNN fails
        for tensor in self._inputs.values():
            self._session.interpreter.resizeTensor(tensor, (batch, *tensor.getShape()[1:]))
        self._session.interpreter.resizeSession(self._session.session)
        self._batch = batch


#: A child process has none of the threads with which MNN computes.
_FORK_GUARD = ForkGuard("MNN")


@cache
def _imported() -> Any:
    with silent_stdout():
        import MNN

    return MNN


def _host_tensor(values: np.ndarray, like: Any) -> Any:
    """MNN's tensor in host memory, with a copy of the values."""
    mnn = library()
    return mnn.Tensor(values.shape, like.getDataType(), values, mnn.Tensor_DimensionType_Caffe)


def _tensor_spec(name: str, is_input: bool, tensor: Any) -> TensorSpec:
    mnn = library()
    kinds = ((np.float32, mnn.Halide_Type_Float), (np.uint8, mnn.Halide_Type_Uint8))
    dtype: np.dtype[Any] = np.dtype(next((dtype for dtype, kind in kinds if kind == tensor.getDataType()), object))
    return TensorSpec(name, is_input, dtype, tuple(tensor.getShape()[1:]))


BACKEND = Mnn()
