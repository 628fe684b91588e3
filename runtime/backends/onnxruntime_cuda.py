"""ONNX Runtime on an NVIDIA GPU: inputs and outputs bound to memory that stays where it is, replayed as a CUDA graph.

Its package takes the place of the CPU one under the same module name, so it is no extra of this project: what installs it
is `INSTALL`. What it computes is the bundle's own file; nothing is built.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stylert.core.devices import find_gpus
from stylert.core.errors import BackendError, OutOfMemory
from stylert.runtime.backends import onnxruntime as cpu
from stylert.runtime.cuda.arrays import OnDevice
from stylert.runtime.cuda.device_array import FIRST_GPU, HOST, DeviceArray
from stylert.runtime.cuda.driver import wait_for_stream
from stylert.runtime.session import Tensor, Timings, note_missing_graph

NAME = "onnxruntime-cuda"
EXTRA = None
INSTALL = "pip uninstall -y onnxruntime; pip install onnxruntime-gpu"
PRECISIONS = ("fp32", "fp16")
ENGINE_SUFFIX = None  # nothing is built
NEEDS_ENGINE = False
PROVIDER = "CUDAExecutionProvider"
#: Batches and places whose memory and graph are kept; a further one takes the place of the one that was used longest ago.
MAX_BOUND = 4
#: What ONNX Runtime takes for the number of a graph that is neither captured nor replayed
NO_GRAPH = -1
DTYPES: dict[str, np.dtype[Any]] = {"tensor(float)": np.dtype(np.float32), "tensor(uint8)": np.dtype(np.uint8)}


def available() -> bool:
    try:
        importlib.metadata.version("onnxruntime-gpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def unavailable_reason() -> str | None:
    if not available():
        return f"ONNX Runtime for CUDA is not installed: {INSTALL}"
    problem = find_gpus().problem
    return f"{NAME} runs on an NVIDIA GPU, and {problem}" if problem else None


def version() -> str:
    return importlib.metadata.version("onnxruntime-gpu")


def load(source: Path, precision: str, threads: int | None = None, built: bool = False) -> BoundSession:
    """Open an ONNX file on the first GPU.

    Raises BackendError for an ONNX Runtime without CUDA, or one whose CUDA libraries do not load, and BundleError for a file that
    it refuses.
    """
    import onnxruntime as ort

    if PROVIDER not in ort.get_available_providers():
        raise BackendError(f"this ONNX Runtime has no CUDA: {INSTALL}")
    open_it = partial(_open, source, threads)
    try:
        return BoundSession(open_it, "cuda", True)
    except BackendError:
        raise
    except Exception:  # CUDA graphs want every operator on the GPU; where one is not, the same runs without
        return BoundSession(open_it, "cuda", False)


def _open(source: Path, threads: int | None, graphs: bool) -> Any:
    providers = [(PROVIDER, {"device_id": "0", "enable_cuda_graph": str(int(graphs))}), "CPUExecutionProvider"]
    session = cpu.open_session(source, cpu.session_options(threads), providers)
    if session.get_providers()[0] != PROVIDER:
        raise BackendError(
            f"{NAME} is installed but CUDA does not load: its CUDA and cuDNN libraries are missing or of another version"
        )
    return session


@dataclass
class Bound:
    """One batch and one set of addresses, which stay the same from call to call."""

    batch: int
    held: dict[str, Any]  # values of ours, for the inputs that come from the host
    outside: dict[str, OnDevice]  # the other inputs
    image: Any  # a value of ours, or the address outside where the images go
    graph_id: int
    binding: Any = None
    runs: int = 0


class BoundSession:
    """A `DeviceSession` where `device` is "cuda"; on "cpu" the same is true of host memory. Inputs and output are bound once for
    each batch and set of addresses. Calls from several threads take turns.

    `open_it` makes ONNX Runtime's own session, with CUDA graphs or without. What comes once runs without a graph; what comes
    again is captured and then replayed.
    """

    def __init__(self, open_it: Callable[[bool], Any], device: str, graphs: bool) -> None:
        self._open, self.device, self._graphs = open_it, device, graphs
        self._session = open_it(graphs)
        self._inputs = [_tensor(value, True) for value in self._session.get_inputs()]
        self.image = _tensor(self._session.get_outputs()[0], False)
        self.notes: list[str] = []
        self._lock = threading.Lock()
        self._bound: OrderedDict[tuple[int, ...], Bound] = OrderedDict()
        self._made = 0

    def run(self, inputs: dict[str, np.ndarray | OnDevice]) -> np.ndarray:
        with self._lock, self._memory_errors():
            bound = self._placed(inputs, None)
            self._execute(bound)
            return np.array(bound.image.numpy())  # on a CPU the value's own memory, which the next call overwrites

    def run_into(self, inputs: dict[str, np.ndarray | OnDevice], out: int) -> None:
        with self._lock, self._memory_errors():
            self._execute(self._placed(inputs, out))

    def new_images(self, n: int, spare: int = 0) -> DeviceArray:
        shape = (n, *self.image.shape)
        try:
            with self._memory_errors():
                images = self._value(self.image, n + spare)
        except OutOfMemory:
            raise BackendError(f"not enough memory on the GPU for {n} images") from None
        place = FIRST_GPU if self.device == "cuda" else HOST
        return DeviceArray(images.data_ptr(), shape, self.image.dtype, lambda: np.array(images.numpy()[:n]), place)

    def timed_run(self, inputs: dict[str, np.ndarray | OnDevice]) -> Timings:
        """By the host's clock, as each of the three steps ends when the device is done. What it enqueues cannot be told apart."""
        with self._lock, self._memory_errors():
            start = time.perf_counter()
            bound = self._placed(inputs, None)
            there = time.perf_counter()
            self._execute(bound)
            computed = time.perf_counter()
            bound.image.numpy()
            end = time.perf_counter()
        return Timings(1000 * (there - start), 1000 * (computed - there), 1000 * (end - computed), None)

    def close(self) -> None:
        with self._lock:
            self._bound.clear()
            self._session = None

    def _placed(self, inputs: dict[str, Any], out: int | None) -> Bound:
        """What is bound for these inputs, filled with those of the host, and those of the device ready."""
        outside = {name: value for name, value in inputs.items() if isinstance(value, OnDevice)}
        key = (len(inputs["ws"]), out or 0, *(outside[t.name].pointer if t.name in outside else 0 for t in self._inputs))
        if key not in self._bound:
            if len(self._bound) >= MAX_BOUND:
                self._bound.popitem(last=False)
            self._bound[key] = self._bind(len(inputs["ws"]), outside, out)
        self._bound.move_to_end(key)
        bound = self._bound[key]
        for name, value in bound.held.items():
            value.update_inplace(inputs[name])
        for array in outside.values():
            if array.stream is not None:
                wait_for_stream(array.stream)
        return bound

    def _execute(self, bound: Bound) -> None:
        import onnxruntime as ort

        options = ort.RunOptions()
        if self._graphs:
            options.add_run_config_entry("gpu_graph_id", str(bound.graph_id if bound.runs else NO_GRAPH))
        try:
            self._session.run_with_iobinding(bound.binding, options)
        except Exception as e:  # ONNX Runtime's exceptions share no public base class
            if not (self._graphs and bound.runs) or cpu.lacks_memory(e):
                raise
            note_missing_graph(self.notes, e)
            self._graphs = False
            self._session = self._open(False)
            for other in self._bound.values():
                other.binding = self._binding(other)
            self._session.run_with_iobinding(bound.binding, ort.RunOptions())
        bound.runs += 1

    def _bind(self, batch: int, outside: dict[str, OnDevice], out: int | None) -> Bound:
        held = {t.name: self._value(t, batch) for t in self._inputs if t.name not in outside}
        image = self._value(self.image, batch) if out is None else out
        self._made += 1  # a graph's number is never used again: it belongs to addresses
        bound = Bound(batch, held, outside, image, self._made)
        bound.binding = self._binding(bound)
        return bound

    def _binding(self, bound: Bound) -> Any:
        binding = self._session.io_binding()
        for name, value in bound.held.items():
            binding.bind_ortvalue_input(name, value)
        for name, array in bound.outside.items():
            binding.bind_input(name, self.device, 0, array.dtype, array.shape, array.pointer)
        if isinstance(bound.image, int):
            shape = (bound.batch, *self.image.shape)
            binding.bind_output(self.image.name, self.device, 0, self.image.dtype, shape, bound.image)
        else:
            binding.bind_ortvalue_output(self.image.name, bound.image)
        return binding

    def _value(self, tensor: Tensor, batch: int) -> Any:
        import onnxruntime as ort

        return ort.OrtValue.ortvalue_from_shape_and_type((batch, *tensor.shape), tensor.dtype, self.device, 0)

    @contextlib.contextmanager
    def _memory_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as e:  # ONNX Runtime's exceptions share no public base class
            if not cpu.lacks_memory(e):
                raise
            self._bound.clear()
            raise OutOfMemory("ONNX Runtime: not enough memory on the GPU for this batch") from None


def _tensor(described: Any, is_input: bool) -> Tensor:
    return Tensor(described.name, is_input, DTYPES[described.type], tuple(described.shape[1:]))
