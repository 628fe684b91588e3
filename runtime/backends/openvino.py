"""OpenVINO on the CPU, with a network of fixed shape for one image and another for four.

OpenVINO does not know the functions of domain `stylert`, so every network is lowered to plain operators first. A batch
runs as chunks of four images and of one. An engine holds each of the two networks in a file of its own.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from stylert.core.errors import BackendError, BundleError, OutOfMemory, install_command
from stylert.core.files.temporary import temporary_folder
from stylert.core.machine.host import cpu_identity, usable_cores
from stylert.core.progress import Progress
from stylert.runtime.backends.base import Backend, BackendFacts, BuiltEngine, LoadOptions, is_out_of_memory, reason
from stylert.runtime.backends.openvino_forms import fold_along_x, form_here
from stylert.runtime.backends.openvino_products import inexact_layers, make_products_exact
from stylert.runtime.batching import ANY_BATCH, batch_chunks
from stylert.runtime.build_options import LATENCY, THROUGHPUT, BuildOptions, refuse_gpu_options
from stylert.runtime.forking import ForkGuard, never_free, tell_after_fork
from stylert.runtime.network_kinds import STYLEGAN1, STYLEGAN2, STYLEGAN3
from stylert.runtime.session import HostInputs, TensorSpec, closed_shape

#: The engine's main file holds the network for one image. This is the file of every other batch.
COMPANION_FILES = {4: "batch4.blob"}
#: The batches for which there is a network
BATCHES = (1, *COMPANION_FILES)
#: The package by which OpenVINO counts its imports on a server of Google Analytics, with an identity in `~/intel`
TELEMETRY = "openvino_telemetry"


class OpenVino(Backend):
    """Engines are OpenVINO's compiled networks for this CPU."""

    facts = BackendFacts(
        name="openvino",
        library="OpenVINO",
        install=install_command("openvino"),
        precisions=("fp32", "fp16", "bf16", "int8"),
        networks=(STYLEGAN1, STYLEGAN2, STYLEGAN3),
        hints=(LATENCY, THROUGHPUT),
        engine_suffix=".blob",
        companion_files=tuple(COMPANION_FILES.values()),
        deferred_files=tuple(COMPANION_FILES.values()),
        stages=True,
    )

    def available(self) -> bool:
        return importlib.util.find_spec("openvino") is not None

    def version(self) -> str:
        return str(self._library().__version__)

    def load(self, network: Path, options: LoadOptions) -> OpenVinoSession:
        self._library()
        # One of several networks runs images one by one, because its file may be gone when the first larger batch comes.
        return OpenVinoSession(partial(_compile, network, options), BATCHES[:1] if options.in_turn else BATCHES)

    def load_engine(self, engine: BuiltEngine, options: LoadOptions) -> OpenVinoSession:
        """Load an engine. The network for four images is read and verified when the first such batch comes."""
        self._library()
        files = _files(engine.file)
        # Mapped, not read: the weights stay in the page cache until they are used. Copy on write, since the library asks
        # for writable memory. Every file is opened now, so a later build does not change what this session reads.
        blobs = {batch: np.memmap(file, np.uint8, "c") for batch, file in files.items()}

        def import_network(batch: int) -> Any:
            file, blob = files[batch], blobs[batch]
            if file.name in self.facts.deferred_files:
                engine.verify(file, blob.data)
            return _import(blob, file, options)

        return OpenVinoSession(import_network)

    def target(self, options: BuildOptions) -> str:
        refuse_gpu_options(self.name, options)
        return "cpu"

    def machine(self, options: BuildOptions) -> str:
        return cpu_identity()

    def flags(self, precision: str, options: BuildOptions) -> dict[str, Any]:
        flags: dict[str, Any] = {"threads": options.threads, "batches": list(BATCHES)}
        arithmetic = _arithmetic(precision)
        if arithmetic != "f32":
            flags["hint"] = arithmetic
        if options.hint != LATENCY:
            flags["performance"] = options.hint
        if precision == "int8" and (inexact := inexact_layers()) is not None:
            flags["float_weights_of"] = inexact
        if (form := form_here(arithmetic)) is not None:
            flags["form"] = form
        return flags

    def build(self, network: Path, precision: str, engine: Path, options: BuildOptions, progress: Progress) -> dict[str, Any]:
        self._library()
        load_options = LoadOptions(precision, options.threads, options.hint)
        for batch, file in _files(engine).items():
            file.write_bytes(_compile(network, load_options, batch).export_model().getvalue())
        return {}

    def _library(self) -> Any:
        try:
            return library()
        except ImportError:
            raise self.missing_library() from None


def library() -> Any:
    """The module `openvino`. All of stylert imports it here, without its telemetry.

    The telemetry is a package of its own, and OpenVINO has a stand-in for an installation that lacks it.
    """
    if "openvino" in sys.modules or TELEMETRY in sys.modules:
        import openvino

        return openvino
    sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # Python's way to say that a module cannot be imported
    try:
        import openvino
    finally:
        del sys.modules[TELEMETRY]
    return openvino


def shared_core() -> Any:
    """OpenVINO's core, one for the process. All of stylert takes it from here.

    On CPUs with AMX each core sets the thread's stack for signals, and removes it when it is freed. With a second core,
    the next Ctrl-C would then have no stack to run on, and the process would die.

    Raises:
        BackendError: The process from which this one was forked has used OpenVINO.
    """
    _FORK_GUARD.enter()
    return _kept_core().core


class OpenVinoSession:
    """A `Session` of OpenVINO. `load_network` compiles or imports the network for one of the batches."""

    device = "cpu"
    ranges = ANY_BATCH
    notes: tuple[str, ...] = ()

    def __init__(self, load_network: Callable[[int], Any], batches: Sequence[int] = BATCHES) -> None:
        self._ranges = [(batch, batch, batch) for batch in batches]
        # For an engine, this function also keeps the mapped files, from which compiled networks read their weights.
        self._load_network = load_network
        self._networks: dict[int, Any] = {1: load_network(1)}
        self.tensors = _tensors(self._networks[1])
        self._outputs = [tensor.name for tensor in self.tensors if not tensor.is_input]
        #: More than one with the hint for throughput
        self.concurrency = int(self._networks[1].get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._loading = threading.Lock()
        self._local = threading.local()  # each thread has its own requests: a request serves one caller at a time

    def run(self, inputs: HostInputs) -> np.ndarray:
        return next(iter(self.run_stage(inputs).values()))

    def run_stage(self, inputs: HostInputs) -> dict[str, np.ndarray]:
        n = len(next(iter(inputs.values())))
        parts = []
        for chunk in batch_chunks(n, self._ranges):
            rows = slice(chunk.first, chunk.first + chunk.images)
            parts.append(self._infer(chunk.batch, {name: value[rows] for name, value in inputs.items()}))
        return parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _infer(self, batch: int, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        _FORK_GUARD.enter()
        requests = self._local.__dict__.setdefault("requests", {})
        if batch not in requests:
            requests[batch] = self._new_request(batch)
        # Taken out for the call: after an error or an interruption it is not idle and must not be used again.
        request = requests.pop(batch)
        try:
            # Not `infer`, which leaks memory when several threads of ours call it.
            request.start_async(inputs, share_inputs=True)
            request.wait()
        except (MemoryError, RuntimeError) as e:
            if is_out_of_memory(e):
                raise OutOfMemory("OpenVINO: not enough memory for this batch") from None
            raise BackendError(f"OpenVINO cannot run this network: {reason(e, last=True)}") from e
        values = {name: request.get_output_tensor(i).data.copy() for i, name in enumerate(self._outputs)}
        requests[batch] = request
        return values

    def _new_request(self, batch: int) -> Any:
        with self._loading:
            if batch not in self._networks:
                self._networks[batch] = self._load_network(batch)
            return self._networks[batch].create_infer_request()

    def close(self) -> None:
        self._networks = {}
        self._local = threading.local()
        del self._load_network


#: OpenVINO waits without end for the threads of the parent process, in networks and also in new ones.
_FORK_GUARD = ForkGuard("OpenVINO")


def _files(engine: Path) -> dict[int, Path]:
    """The file of each batch's network."""
    return {1: engine} | {batch: engine.with_name(name) for batch, name in COMPANION_FILES.items()}


class KeptCore:
    """Keeps OpenVINO's core in children of the process, where its end would wait for threads of the parent."""

    def __init__(self, core: Any) -> None:
        self.core = core
        tell_after_fork(self)

    def after_fork(self) -> None:
        never_free(self.core)


@cache
def _kept_core() -> KeptCore:
    return KeptCore(library().Core())


def _tensors(network: Any) -> list[TensorSpec]:
    return [
        TensorSpec(port.any_name, is_input, np.dtype(port.element_type.to_dtype()), closed_shape(tuple(port.shape)))
        for ports, is_input in ((network.inputs, True), (network.outputs, False))
        for port in ports
    ]


def _arithmetic(precision: str) -> str:
    """OpenVINO's precision hint. It is always given, because on CPUs with bfloat16 the default is less exact than fp32.

    Around 8-bit convolutions bfloat16 is exact enough. A CPU without bfloat16 computes in float32 instead.
    """
    return "bf16" if precision in ("bf16", "int8") else "f32"


def _config(options: LoadOptions) -> dict[str, Any]:
    config: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": _arithmetic(options.precision),
        "PERFORMANCE_HINT": options.hint.upper(),
    }
    if options.threads is not None:
        config["INFERENCE_NUM_THREADS"] = options.threads
        if options.threads < usable_cores():
            # OpenVINO ties threads to cores, beginning with the first. Networks that share a machine would be on the same ones.
            config["ENABLE_CPU_PINNING"] = False
    return config


def _compile(network: Path, options: LoadOptions, batch: int) -> Any:
    """OpenVINO's compiled network of an ONNX file for one batch."""
    core = shared_core()
    with temporary_folder("openvino") as folder:
        lowered = lowered_network(network, folder, options.precision, batch)
        try:
            return core.compile_model(core.read_model(lowered), "CPU", _config(options))
        except MemoryError as e:
            raise BackendError(f"not enough memory to compile {network}") from e
        except RuntimeError as e:
            raise BundleError(f"OpenVINO cannot compile {network}: {reason(e, last=True)}") from None


def lowered_network(network: Path, folder: Path, precision: str, batch: int) -> Path:
    """A network of plain operators in the forms that OpenVINO gets on this processor. It is written into `folder`."""
    from stylert.runtime.lowering import lower

    def rewrite(model: Any) -> None:
        if precision == "int8" and (inexact := inexact_layers()) is not None:
            make_products_exact(model, inexact)
        if form_here(_arithmetic(precision)) is not None:
            fold_along_x(model)

    return lower(network, folder / "lowered.onnx", batch, rewrite)


def _import(blob: np.ndarray, file: Path, options: LoadOptions) -> Any:
    """OpenVINO's compiled network of an engine's file, from the file's bytes."""
    try:
        return shared_core().import_model(library().Tensor(blob, shared_memory=True), "CPU", _config(options))
    except RuntimeError as e:
        raise BundleError(f"OpenVINO cannot load engine {file}: {reason(e, last=True)}") from None


BACKEND = OpenVino()
