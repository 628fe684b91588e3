"""ONNX Runtime on an NVIDIA GPU: inputs and outputs bound to memory that stays where it is, replayed as a CUDA graph.

Its package takes the place of the CPU one under the same module name, so it is no extra of this project: what installs it
is `INSTALL`. What it computes is the bundle's own file; nothing is built.
"""

from __future__ import annotations

import importlib.metadata
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stylert.runtime.arrays import OnDevice
from stylert.runtime.backends import onnxruntime as cpu
from stylert.runtime.cuda_driver import wait_for_stream
from stylert.runtime.device_array import FIRST_GPU, HOST, DeviceArray
from stylert.runtime.devices import find_gpus
from stylert.runtime.errors import BackendError, OutOfMemory
from stylert.runtime.session import Tensor, Timings, without_graph

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
DTYPES = {"tensor(float)": np.dtype(np.float32), "tensor(uint8)": np.dtype(np.uint8)}


def available() -> bool:
    try:
        importlib.metadata.version("onnxruntime-gpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def obstacle() -> str | None:
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
    """The tensors of one batch and of one set of addresses from outside, which keep their addresses from call to call."""

    binding: Any
    inputs: dict[str, Any]  # those of the host
    image: Any  # None where the images go to an address from outside
    graph_id: int
    runs: int = 0


class BoundSession:
    """A `DeviceSession` where `device` is "cuda"; on "cpu" the same is true of host memory. Inputs and output are bound once for
    each batch size and place. Calls from several threads take turns.

    `open_it` makes ONNX Runtime's own session, with CUDA graphs or without. What comes once runs without a graph; what comes
    again is captured and then replayed.
    """

    def __init__(self, open_it: Callable[[bool], Any], device: str, graphs: bool) -> None:
        self._open, self.device, self._graphs = open_it, device, graphs
        self._session = open_it(graphs)
        (output,) = self._session.get_outputs()
        self.image = Tensor(output.name, False, DTYPES[output.type], tuple(output.shape[1:]))
        self.remarks: list[str] = []
        self._lock = threading.Lock()
        self._bound: OrderedDict[tuple[int, ...], Bound] = OrderedDict()
        self._made = 0

    def run(self, inputs: dict[str, np.ndarray | OnDevice]) -> np.ndarray:
        with self._lock:
            bound = self._compute(inputs, None)
            return np.array(bound.image.numpy())  # on a CPU the value's own memory, which the next call overwrites

    def run_into(self, inputs: dict[str, np.ndarray | OnDevice], out: int) -> None:
        with self._lock:
            self._compute(inputs, out)

    def new_images(self, n: int, spare: int = 0) -> DeviceArray:
        try:
            held = self._value((n + spare, *self.image.shape), self.image.dtype)
        except Exception as e:  # ONNX Runtime's exceptions share no public base class
            if cpu.lacks_memory(e):
                raise BackendError(f"not enough memory on the GPU for {n} images") from None
            raise
        place = FIRST_GPU if self.device == "cuda" else HOST
        return DeviceArray(
            held.data_ptr(), (n, *self.image.shape), self.image.dtype, lambda: np.array(held.numpy()[:n]), place
        )

    def timed_run(self, inputs: dict[str, np.ndarray]) -> Timings:
        """By the host's clock, since each of its three steps ends when the device is done; what it enqueues cannot be told apart."""
        with self._lock:
            clock = [time.perf_counter()]
            bound = self._compute(inputs, None, clock)
            bound.image.numpy()
            clock.append(time.perf_counter())
        h2d, compute, d2h = (1000 * (b - a) for a, b in zip(clock, clock[1:], strict=False))
        return Timings(h2d, compute, d2h, None)

    def close(self) -> None:
        with self._lock:
            self._bound.clear()
            self._session = None

    def _compute(self, inputs: dict[str, Any], out: int | None, clock: list[float] | None = None) -> Bound:
        """Run the network. `clock` gets the time at which the inputs are there, and that at which the network is done."""
        import onnxruntime as ort

        for value in inputs.values():
            if isinstance(value, OnDevice) and value.stream is not None:
                wait_for_stream(value.stream)
        try:
            bound = self._bind(inputs, out)
            for name, held in bound.inputs.items():
                held.update_inplace(inputs[name])
            if clock is not None:
                clock.append(time.perf_counter())
            options = ort.RunOptions()
            if self._graphs:
                options.add_run_config_entry("gpu_graph_id", str(bound.graph_id if bound.runs else NO_GRAPH))
            self._session.run_with_iobinding(bound.binding, options)
            if clock is not None:
                clock.append(time.perf_counter())
            bound.runs += 1
            return bound
        except Exception as e:  # ONNX Runtime's exceptions share no public base class
            if cpu.lacks_memory(e):
                self._bound.clear()
                raise OutOfMemory("ONNX Runtime: not enough memory on the GPU for this batch") from None
            if not self._graphs or not bound.runs:
                raise
            without_graph(self.remarks, e)
        self._graphs = False
        self._bound.clear()
        self._session = self._open(False)
        return self._compute(inputs, out, None if clock is None else _again(clock))

    def _bind(self, inputs: dict[str, Any], out: int | None) -> Bound:
        batch = len(inputs["ws"])
        names = [value.name for value in self._session.get_inputs()]
        key = (batch, out or 0, *(inputs[n].pointer if isinstance(inputs[n], OnDevice) else 0 for n in names))
        if key in self._bound:
            self._bound.move_to_end(key)
            return self._bound[key]
        if len(self._bound) >= MAX_BOUND:
            self._bound.popitem(last=False)
        binding, held, image = self._session.io_binding(), {}, None
        for described in self._session.get_inputs():
            value = inputs[described.name]
            if isinstance(value, OnDevice):
                binding.bind_input(described.name, self.device, 0, value.dtype, value.shape, value.pointer)
            else:
                held[described.name] = self._value((batch, *described.shape[1:]), DTYPES[described.type])
                binding.bind_ortvalue_input(described.name, held[described.name])
        shape = (batch, *self.image.shape)
        if out is None:
            image = self._value(shape, self.image.dtype)
            binding.bind_ortvalue_output(self.image.name, image)
        else:
            binding.bind_output(self.image.name, self.device, 0, self.image.dtype, shape, out)
        self._made += 1  # a graph's number is never used again: it belongs to addresses
        self._bound[key] = Bound(binding, held, image, self._made)
        return self._bound[key]

    def _value(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        import onnxruntime as ort

        return ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype, self.device, 0)
