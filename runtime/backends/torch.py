"""PyTorch, running the canonical file: the reference on a CPU, and on a GPU our own kernels under a CUDA graph.

On a CPU it is slower than the others and is taken only where it is asked for by name. `threads` sets PyTorch's number for
the whole process, which is the only one that it has.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import threading
from pathlib import Path
from typing import Any

import numpy as np

from stylert.runtime.backends.onnxruntime import lacks_memory
from stylert.runtime.errors import BackendError, OutOfMemory, missing_extra

NAME = "torch"
EXTRA = "gpu"
PRECISIONS = ("fp32", "fp16")
ENGINE_SUFFIX = None  # nothing is built
NEEDS_ENGINE = False


def available() -> bool:
    return importlib.util.find_spec("torch") is not None


def obstacle() -> str | None:
    return None if available() else str(missing_extra("PyTorch", EXTRA))


def version() -> str:
    return importlib.metadata.version("torch")


def load(source: Path, precision: str, threads: int | None = None, built: bool = False) -> TorchSession:
    """Open an ONNX file on the first GPU that PyTorch can use, or else on the CPU.

    Raises BackendError without PyTorch, BundleError for a network that is not one of ours.
    """
    try:
        import torch
    except ImportError:
        raise missing_extra("PyTorch", EXTRA) from None
    from stylert.runtime.torch_graph import TorchGraph

    if threads is not None:
        torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return TorchSession(TorchGraph(source, device), device)
    except torch.OutOfMemoryError as e:
        raise BackendError(f"not enough memory on the GPU for {source}: {str(e).splitlines()[0]}") from None


class TorchSession:
    """Calls from several threads take turns."""

    def __init__(self, graph: Any, device: str) -> None:
        self._graph, self._device = graph, device
        self._lock = threading.Lock()
        self._captured: CapturedGraph | None = None

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        import torch

        try:
            return self._run(inputs)
        except RuntimeError as e:
            if lacks_memory(e) or isinstance(e, torch.OutOfMemoryError):
                self._captured = None
                raise OutOfMemory("PyTorch: not enough memory for this batch") from None
            raise

    def _run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        import torch

        with self._lock, torch.inference_mode():
            there = {name: torch.from_numpy(value) for name, value in inputs.items()}
            if self._device == "cpu":
                return self._graph(there).contiguous().numpy()
            batch = len(inputs["ws"])
            if self._captured is None or self._captured.batch != batch:
                self._captured = None  # before the other is made: its memory is free then
                self._captured = CapturedGraph(self._graph, there, batch)
            return self._captured.run(there)

    def close(self) -> None:
        with self._lock:
            self._graph = self._captured = None


class CapturedGraph:
    """The network for one batch as a CUDA graph, with the tensors that it reads and writes."""

    def __init__(self, graph: Any, inputs: dict[str, Any], batch: int) -> None:
        import torch

        self.batch = batch
        self._inputs = {name: value.to("cuda") for name, value in inputs.items()}
        # The first run compiles kernels and plans memory, which a capture may not; on a stream of its own, as captures are.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            graph(self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._image = graph(self._inputs).contiguous()

    def run(self, inputs: dict[str, Any]) -> np.ndarray:
        for name, value in inputs.items():
            self._inputs[name].copy_(value)
        self._graph.replay()
        return self._image.cpu().numpy()
