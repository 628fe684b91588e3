"""PyTorch, running the canonical file: the reference on a CPU, and on a GPU our own kernels under a CUDA graph.

On a CPU it is slower than the others and is taken only where it is asked for by name. `threads` sets PyTorch's number for
the whole process, which is the only one that it has.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stylert.core.errors import BackendError, OutOfMemory, missing_extra
from stylert.runtime.backends.onnxruntime import lacks_memory
from stylert.runtime.cuda import dlpack
from stylert.runtime.cuda.arrays import LEGACY_STREAM, OnDevice
from stylert.runtime.cuda.device_array import FIRST_GPU, HOST, DeviceArray
from stylert.runtime.session import Tensor, Timings, note_missing_graph

NAME = "torch"
EXTRA = "gpu"
PRECISIONS = ("fp32", "fp16")
ENGINE_SUFFIX = None  # nothing is built
NEEDS_ENGINE = False
#: Before a step's number in a profile
STEP = "stylert step "


def available() -> bool:
    return importlib.util.find_spec("torch") is not None


def unavailable_reason() -> str | None:
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
    from stylert.runtime.backends.torch_graph import TorchGraph

    if threads is not None:
        torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return TorchSession(TorchGraph(source, device), device, device == "cuda")
    except torch.OutOfMemoryError as e:
        raise BackendError(f"not enough memory on the GPU for {source}: {str(e).splitlines()[0]}") from None


class TorchSession:
    """A `DeviceSession` where `device` is "cuda"; on "cpu" the same is true of host memory. `capture` says whether to replay
    CUDA graphs. Calls from several threads take turns.
    """

    def __init__(self, graph: Any, device: str, capture: bool) -> None:
        self._graph, self.device, self.capture = graph, device, capture
        self.image: Tensor = graph.image
        self.notes: list[str] = []
        self._lock = threading.Lock()
        self._prepared: Prepared | None = None

    def run(self, inputs: dict[str, np.ndarray | OnDevice]) -> np.ndarray:
        with self._lock, self._guarded():
            return self._images(inputs).to("cpu", copy=True).numpy()

    def run_into(self, inputs: dict[str, np.ndarray | OnDevice], out: int) -> None:
        shape = (len(inputs["ws"]), *self.image.shape)
        with self._lock, self._guarded():
            self._lent(out, shape, self.image.dtype).copy_(self._images(inputs))
            self._finish()

    def new_images(self, n: int, spare: int = 0) -> DeviceArray:
        import torch

        dtype = getattr(torch, self.image.dtype.name)
        try:
            images = torch.empty((n + spare, *self.image.shape), dtype=dtype, device=self.device)[:n]
        except RuntimeError as e:
            raise BackendError(f"not enough memory on the GPU for {n} images: {str(e).splitlines()[0]}") from None
        place = FIRST_GPU if self.device == "cuda" else HOST
        return DeviceArray(
            images.data_ptr(), tuple(images.shape), self.image.dtype, lambda: images.to("cpu", copy=True).numpy(), place
        )

    def timed_run(self, inputs: dict[str, np.ndarray | OnDevice]) -> Timings:
        """On the GPU's own clock. Both copies are of memory that is not pinned, as in `run`."""
        import torch

        events = [torch.cuda.Event(enable_timing=True) for _ in range(4)]
        with self._lock, self._guarded():
            start = time.perf_counter()
            image = self._images(inputs, events)
            enqueue = 1000 * (time.perf_counter() - start)
            image.to("cpu", copy=True)
            events[3].record()
            self._finish()
        h2d, compute, d2h = (a.elapsed_time(b) for a, b in itertools.pairwise(events))
        return Timings(h2d, compute, d2h, enqueue)

    def layer_times(self, inputs: dict[str, np.ndarray | OnDevice]) -> list[tuple[str, float]]:
        """The result's name and the milliseconds of every node of the network in one call, in its order, without a graph: of its
        kernels on a GPU, of its operators on a CPU, as PyTorch's profiler tells them."""
        from torch.profiler import ProfilerActivity, profile, record_function

        kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if self.device == "cuda" else [])
        with self._lock, self._guarded():
            there = {name: self._tensor(value).to(self.device) for name, value in inputs.items()}
            with profile(activities=kinds) as profiler:
                self._graph(there, lambda i: record_function(f"{STEP}{i}"))
                self._finish()
        found = {e.key: e for e in profiler.key_averages() if e.key.startswith(STEP)}
        own = "device_time_total" if self.device == "cuda" else "cpu_time_total"
        return [(name, getattr(found[f"{STEP}{i}"], own) / 1000) for i, name in enumerate(self._graph.results)]

    def close(self) -> None:
        with self._lock:
            self._graph = self._prepared = None

    def _images(self, inputs: dict[str, Any], events: Sequence[Any] = ()) -> Any:
        """The images as a tensor that the next call overwrites, with events recorded before the inputs, behind them, and behind
        the network."""
        batch = len(inputs["ws"])
        if self._prepared is None or self._prepared.batch != batch:
            self._prepared = None  # before the other is made: its memory is free then
            self._prepared = Prepared(self, {name: self._tensor(value) for name, value in inputs.items()}, batch)
        return self._prepared.run({name: self._tensor(value) for name, value in inputs.items()}, events)

    def _tensor(self, value: np.ndarray | OnDevice) -> Any:
        """A tensor of the same memory, once the work of its stream is over."""
        import torch

        if not isinstance(value, OnDevice):
            return torch.from_numpy(value)
        if value.stream is not None:
            theirs = torch.cuda.default_stream() if value.stream == LEGACY_STREAM else torch.cuda.ExternalStream(value.stream)
            torch.cuda.current_stream().wait_stream(theirs)
        return self._lent(value.pointer, value.shape, value.dtype)

    def _lent(self, pointer: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        import torch

        place = FIRST_GPU if self.device == "cuda" else HOST
        return torch.from_dlpack(dlpack.lend(pointer, shape, dtype, place, None))

    def _finish(self) -> None:
        if self.device == "cuda":
            import torch

            torch.cuda.current_stream().synchronize()

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        import torch

        try:
            with torch.inference_mode():
                yield
        except RuntimeError as e:
            if lacks_memory(e) or isinstance(e, torch.OutOfMemoryError):
                self._prepared = None
                raise OutOfMemory("PyTorch: not enough memory for this batch") from None
            raise


class Prepared:
    """The network for one batch, with the tensors that it reads. It is captured as a CUDA graph when the batch comes a second
    time, where it can be: batches that change all the time never pay for captures.
    """

    def __init__(self, session: TorchSession, inputs: dict[str, Any], batch: int) -> None:
        self.batch, self._runs, self._session = batch, 0, session
        self._graph: Any = None
        self._image: Any = None
        self._inputs = {name: value.to(session.device, copy=True) for name, value in inputs.items()}

    def _capture(self) -> None:
        import torch

        network = self._session._graph
        # What a capture may not do, such as compiling kernels, is done before; on a stream of its own, as captures are.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            network(self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._image = network(self._inputs).contiguous()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as e:
            self._session.capture = False
            note_missing_graph(self._session.notes, e)
        else:
            self._graph = graph

    def run(self, inputs: dict[str, Any], events: Sequence[Any]) -> Any:
        self._runs += 1
        if self._runs == 2 and self._session.capture:
            self._capture()
        marks = iter(events)
        _record(marks)
        for name, value in inputs.items():
            self._inputs[name].copy_(value)
        _record(marks)
        if self._graph is None:
            self._image = self._session._graph(self._inputs).contiguous()
        else:
            self._graph.replay()
        _record(marks)
        return self._image


def _record(marks: Iterator[Any]) -> None:
    event = next(marks, None)
    if event is not None:
        event.record()
