"""ONNX Runtime on an NVIDIA GPU: inputs and outputs bound to memory that stays where it is, replayed as a CUDA graph.

Its package takes the place of the CPU one under the same module name, so it is no extra of this project: what installs it
is `INSTALL`. What it computes is the bundle's own file; nothing is built.
"""

from __future__ import annotations

import importlib.metadata
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stylert.runtime.backends import onnxruntime as cpu
from stylert.runtime.devices import find_gpus
from stylert.runtime.errors import BackendError

NAME = "onnxruntime-cuda"
EXTRA = None
INSTALL = "pip uninstall -y onnxruntime; pip install onnxruntime-gpu"
PRECISIONS = ("fp32", "fp16")
ENGINE_SUFFIX = None  # nothing is built
NEEDS_ENGINE = False
PROVIDER = "CUDAExecutionProvider"
#: Batch sizes whose memory and graph are kept; a further one takes the place of the one that was used longest ago.
MAX_BOUND = 4


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
    # CUDA graphs want every operator on the GPU; where one is not, the same runs without.
    for graph in ("1", "0"):
        providers = [(PROVIDER, {"device_id": "0", "enable_cuda_graph": graph}), "CPUExecutionProvider"]
        try:
            session = cpu.open_session(source, cpu.session_options(threads), providers)
        except BackendError:
            raise
        except Exception:
            if graph == "0":
                raise
            continue
        if session.get_providers()[0] != PROVIDER:
            raise BackendError(
                f"{NAME} is installed but CUDA does not load: its CUDA and cuDNN libraries are missing or of another version"
            )
        return BoundSession(session, "cuda", graph == "1")
    raise AssertionError


@dataclass
class Bound:
    """The tensors of one batch size, which keep their addresses from call to call."""

    binding: Any
    inputs: dict[str, Any]
    image: Any
    graph_id: int


class BoundSession:
    """A session whose inputs and output are bound once for each batch size. Calls from several threads take turns.

    `device` is "cuda", or "cpu", where the same is true and no graph is.
    """

    def __init__(self, session: Any, device: str, graphs: bool) -> None:
        self._session, self._device, self._graphs = session, device, graphs
        self._lock = threading.Lock()
        self._bound: OrderedDict[int, Bound] = OrderedDict()
        self._made = 0

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        import onnxruntime as ort

        with self._lock:
            bound = self._bind(len(inputs["ws"]))
            for name, value in bound.inputs.items():
                value.update_inplace(inputs[name])
            options = ort.RunOptions()
            if self._graphs:
                options.add_run_config_entry("gpu_graph_id", str(bound.graph_id))
            self._session.run_with_iobinding(bound.binding, options)
            return np.array(bound.image.numpy())  # on a CPU the value's own memory, which the next call overwrites

    def close(self) -> None:
        with self._lock:
            self._bound.clear()
            self._session = None

    def _bind(self, batch: int) -> Bound:
        if batch in self._bound:
            self._bound.move_to_end(batch)
            return self._bound[batch]
        if len(self._bound) >= MAX_BOUND:
            self._bound.popitem(last=False)
        binding = self._session.io_binding()
        inputs = {value.name: self._value(value, batch) for value in self._session.get_inputs()}
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        (output,) = self._session.get_outputs()
        image = self._value(output, batch)
        binding.bind_ortvalue_output(output.name, image)
        self._made += 1  # a graph's number is never used again: it belongs to addresses
        self._bound[batch] = Bound(binding, inputs, image, self._made)
        return self._bound[batch]

    def _value(self, described: Any, batch: int) -> Any:
        import onnxruntime as ort

        dtype = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}[described.type]
        return ort.OrtValue.ortvalue_from_shape_and_type((batch, *described.shape[1:]), dtype, self._device, 0)
