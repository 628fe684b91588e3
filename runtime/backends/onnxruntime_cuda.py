"""ONNX Runtime on an NVIDIA GPU, with inputs and outputs bound to fixed memory and CUDA graphs.

It runs the bundle's ONNX files and builds nothing. Its package replaces the CPU package under the same module name, so
it cannot be an extra of stylert.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stylert.core.errors import BackendError, OutOfMemory
from stylert.core.machine.devices import find_gpus
from stylert.runtime.backends import onnxruntime as cpu
from stylert.runtime.backends.base import Backend, BackendFacts, LoadOptions, is_out_of_memory, reason
from stylert.runtime.batching import ANY_BATCH
from stylert.runtime.cuda.arrays import DeviceView
from stylert.runtime.cuda.device_array import FIRST_GPU, HOST, DeviceArray
from stylert.runtime.cuda.driver import wait_for_stream
from stylert.runtime.cuda.engine_session import FORK_GUARD
from stylert.runtime.network_files import check_network
from stylert.runtime.session import Inputs, TensorSpec, Timings, note_missing_graph

INSTALL = "pip uninstall -y onnxruntime; pip install 'onnxruntime-gpu[cuda,cudnn]'"
PROVIDER = "CUDAExecutionProvider"
#: How many bindings keep their memory and graph. A further one replaces the least recently used.
MAX_BINDINGS = 4
#: ONNX Runtime's number for a run without a graph
NO_GRAPH = -1


class OnnxRuntimeCuda(Backend):
    facts = BackendFacts(
        name="onnxruntime-cuda",
        library="ONNX Runtime for CUDA",
        install=INSTALL,
        precisions=("fp32", "fp16"),
    )

    def available(self) -> bool:
        try:
            importlib.metadata.version("onnxruntime-gpu")
        except importlib.metadata.PackageNotFoundError:
            return False
        return True

    def unavailable_reason(self) -> str | None:
        if not self.available():
            return str(self.missing_library())
        problem = find_gpus().problem
        return f"{self.name} runs on an NVIDIA GPU, and {problem}" if problem else None

    def version(self) -> str:
        try:
            return importlib.metadata.version("onnxruntime-gpu")
        except importlib.metadata.PackageNotFoundError:
            raise self.missing_library() from None

    def load(self, network: Path, options: LoadOptions) -> BoundSession:
        """Load an ONNX file on the first GPU.

        Raises:
            BackendError: ONNX Runtime has no CUDA, or its CUDA libraries cannot be loaded.
            BundleError: ONNX Runtime refuses the file.
        """
        if PROVIDER not in cpu.library().get_available_providers():
            raise BackendError(f"this ONNX Runtime has no CUDA: {INSTALL}")
        FORK_GUARD.enter()
        check_network(network)
        _load_cuda_libraries()
        # Tensor cores take float16 channels last. A version that cannot arrange a network so refuses it.
        layouts = (True, False) if options.precision == "fp16" else (False,)
        # CUDA graphs need every operator on the GPU. Without graphs the others may run on the CPU.
        attempts = [(channels_last, graphs) for channels_last in layouts for graphs in (True, False)]
        for channels_last, graphs in attempts:
            try:
                return BoundSession(partial(self._open, network, options, channels_last), "cuda", graphs)
            except BackendError:
                raise
            except Exception:
                if (channels_last, graphs) == attempts[-1]:
                    raise
        raise AssertionError("there is no attempt")

    def _open(self, network: Path, options: LoadOptions, channels_last: bool, graphs: bool) -> Any:
        provider = {
            "device_id": "0",
            "enable_cuda_graph": str(int(graphs)),
            "use_tf32": str(int(options.precision != "fp32")),  # TF32 has too few bits for the accuracy that fp32 promises
        }
        if channels_last:
            provider["prefer_nhwc"] = "1"
        providers = [(PROVIDER, provider), "CPUExecutionProvider"]
        session = cpu.open_session(network, cpu.session_options(options.threads), providers)
        if session.get_providers()[0] != PROVIDER:
            reason = "its CUDA and cuDNN libraries are missing or of another version"
            raise BackendError(f"{self.name} is installed but CUDA does not load: {reason}; {INSTALL}")
        return session


def _load_cuda_libraries() -> None:
    """Load CUDA and cuDNN from their Python packages, where the linker does not look. ONNX Runtime reports what is missing.

    `preload_dlls` prints each library that it does not find, although it may be elsewhere. Its lines are kept off standard
    output.
    """
    preload = getattr(cpu.library(), "preload_dlls", None)  # from 1.21 on
    if preload is not None:
        with contextlib.redirect_stdout(io.StringIO()):
            preload()


@dataclass
class Binding:
    """The memory of one batch: the addresses stay the same from call to call.

    Attributes:
        batch: Number of images.
        host_inputs: Values of ONNX Runtime on the device, for the inputs that come from the host.
        device_inputs: The inputs that are on the device already.
        image: A value of ONNX Runtime, or the device address where the caller wants the images.
        graph_id: Number of the CUDA graph.
        io: ONNX Runtime's own binding of all of these.
        runs: How often it ran.
    """

    batch: int
    host_inputs: dict[str, Any]
    device_inputs: dict[str, DeviceView]
    image: Any
    graph_id: int
    io: Any = None
    runs: int = 0


class BoundSession:
    """A session with a binding for each batch and set of addresses. Calls from several threads run one after the other.

    The first run of a binding has no CUDA graph. The second run captures one, and later runs replay it.

    With `device` "cuda" this is a `DeviceSession`. With "cpu" it does the same in host memory.
    """

    ranges = ANY_BATCH
    concurrency = 1

    def __init__(self, open_session: Callable[[bool], Any], device: str, graphs: bool) -> None:
        """`open_session` opens ONNX Runtime's session, with CUDA graphs or without."""
        self._open, self.device, self._graphs = open_session, device, graphs
        self._session = open_session(graphs)
        self.tensors = cpu.session_tensors(self._session)
        self._inputs = [tensor for tensor in self.tensors if tensor.is_input]
        self.image = next(tensor for tensor in self.tensors if not tensor.is_input)
        self.notes: list[str] = []
        self._lock = threading.Lock()
        self._bindings: OrderedDict[tuple[int, ...], Binding] = OrderedDict()
        self._last_graph_id = 0

    def run(self, inputs: Inputs) -> np.ndarray:
        with self._lock, self._memory_errors():
            binding = self._filled_binding(inputs, None)
            self._execute(binding)
            return np.array(binding.image.numpy())  # a copy: on a CPU the next call overwrites the value's memory

    def run_into(self, inputs: Inputs, out: int) -> None:
        with self._lock, self._memory_errors():
            self._execute(self._filled_binding(inputs, out))

    def new_images(self, n: int, spare: int = 0) -> DeviceArray:
        shape = (n, *self.image.shape)
        try:
            with self._memory_errors():
                images = self._value(self.image, n + spare)
        except OutOfMemory:
            raise BackendError(f"not enough memory on the GPU for {n} images") from None
        device = FIRST_GPU if self.device == "cuda" else HOST
        return DeviceArray(images.data_ptr(), shape, self.image.dtype, lambda: np.array(images.numpy()[:n]), device)

    def timed_run(self, inputs: Inputs) -> Timings:
        """Times by the host's clock. Each part ends when the device is done, so `enqueue` is unknown."""
        with self._lock, self._memory_errors():
            start = time.perf_counter()
            binding = self._filled_binding(inputs, None)
            copied_in = time.perf_counter()
            self._execute(binding)
            computed = time.perf_counter()
            binding.image.numpy()
            copied_out = time.perf_counter()
        return Timings(1000 * (copied_in - start), 1000 * (computed - copied_in), 1000 * (copied_out - computed), None)

    def close(self) -> None:
        with self._lock:
            self._bindings.clear()
            self._session = None

    def _filled_binding(self, inputs: Inputs, out: int | None) -> Binding:
        """The binding for these inputs, with the host's inputs copied in and the device's inputs complete."""
        device_inputs = {name: value for name, value in inputs.items() if isinstance(value, DeviceView)}
        addresses = (device_inputs[t.name].pointer if t.name in device_inputs else 0 for t in self._inputs)
        key = (len(inputs["ws"]), out or 0, *addresses)
        if key not in self._bindings:
            if len(self._bindings) >= MAX_BINDINGS:
                self._bindings.popitem(last=False)
            self._bindings[key] = self._new_binding(len(inputs["ws"]), device_inputs, out)
        self._bindings.move_to_end(key)
        binding = self._bindings[key]
        for name, value in binding.host_inputs.items():
            value.update_inplace(inputs[name])
        for array in device_inputs.values():
            if array.stream is not None:
                wait_for_stream(array.stream)
        return binding

    def _execute(self, binding: Binding) -> None:
        options = cpu.library().RunOptions()
        if self._graphs:
            options.add_run_config_entry("gpu_graph_id", str(binding.graph_id if binding.runs else NO_GRAPH))
        try:
            self._session.run_with_iobinding(binding.io, options)
        except Exception as e:  # ONNX Runtime's exceptions share no public base class
            if not (self._graphs and binding.runs) or is_out_of_memory(e):
                raise
            note_missing_graph(self.notes, e)
            self._reopen_without_graphs()
            self._session.run_with_iobinding(binding.io, cpu.library().RunOptions())
        binding.runs += 1

    def _reopen_without_graphs(self) -> None:
        self._graphs = False
        self._session = self._open(False)
        for binding in self._bindings.values():
            binding.io = self._io_binding(binding)

    def _new_binding(self, batch: int, device_inputs: dict[str, DeviceView], out: int | None) -> Binding:
        host_inputs = {t.name: self._value(t, batch) for t in self._inputs if t.name not in device_inputs}
        image = self._value(self.image, batch) if out is None else out
        self._last_graph_id += 1  # never used again: a graph belongs to its addresses
        binding = Binding(batch, host_inputs, device_inputs, image, self._last_graph_id)
        binding.io = self._io_binding(binding)
        return binding

    def _io_binding(self, binding: Binding) -> Any:
        io = self._session.io_binding()
        for name, value in binding.host_inputs.items():
            io.bind_ortvalue_input(name, value)
        for name, array in binding.device_inputs.items():
            io.bind_input(name, self.device, 0, array.dtype, array.shape, array.pointer)
        if isinstance(binding.image, int):
            shape = (binding.batch, *self.image.shape)
            io.bind_output(self.image.name, self.device, 0, self.image.dtype, shape, binding.image)
        else:
            io.bind_ortvalue_output(self.image.name, binding.image)
        return io

    def _value(self, tensor: TensorSpec, batch: int) -> Any:
        """New device memory for a tensor, as a value of ONNX Runtime."""
        return cpu.library().OrtValue.ortvalue_from_shape_and_type((batch, *tensor.shape), tensor.dtype, self.device, 0)

    @contextlib.contextmanager
    def _memory_errors(self) -> Iterator[None]:
        """Turn a failed allocation into OutOfMemory, and free all bindings then."""
        if self.device == "cuda":
            FORK_GUARD.enter()
        try:
            yield
        except Exception as e:  # ONNX Runtime's exceptions share no public base class
            if isinstance(e, BackendError):
                raise
            if not is_out_of_memory(e):
                raise BackendError(f"ONNX Runtime cannot run this network: {reason(e)}") from e
            self._bindings.clear()
            raise OutOfMemory("ONNX Runtime: not enough memory on the GPU for this batch") from None


BACKEND = OnnxRuntimeCuda()
