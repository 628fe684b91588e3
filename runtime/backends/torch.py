"""PyTorch: on a GPU, stylert's own kernels under a CUDA graph; on a CPU, the slow reference.

It runs the bundle's ONNX files and builds nothing. A CPU is used only if the caller names this backend.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import itertools
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stylert.core.errors import BackendError, BundleError, OutOfMemory, StylertError, install_command
from stylert.runtime.backends.base import Backend, BackendFacts, LoadOptions, is_out_of_memory, reason
from stylert.runtime.backends.torch_graph import TorchGraph
from stylert.runtime.batching import ANY_BATCH
from stylert.runtime.cuda import dlpack
from stylert.runtime.cuda.arrays import LEGACY_STREAM, DeviceView
from stylert.runtime.cuda.device_array import FIRST_GPU, HOST, DeviceArray
from stylert.runtime.forking import ForkGuard
from stylert.runtime.network_files import check_network_file
from stylert.runtime.session import HostInputs, Inputs, TensorSpec, Timings, note_missing_graph

if TYPE_CHECKING:
    import torch

#: Prefix of a node's number in a profile
NODE_MARK = "stylert node "


class Torch(Backend):
    facts = BackendFacts(
        name="torch",
        library="PyTorch",
        install=install_command("gpu"),
        precisions=("fp32", "fp16"),
        only_by_name_on_cpu=True,
    )

    def available(self) -> bool:
        return importlib.util.find_spec("torch") is not None

    def version(self) -> str:
        try:
            return importlib.metadata.version("torch")
        except importlib.metadata.PackageNotFoundError:
            raise self.missing_library() from None

    def load(self, network: Path, options: LoadOptions) -> TorchSession:
        """Load an ONNX file on the first GPU that PyTorch can use, or else on the CPU.

        `threads` changes the number of threads for the whole process: PyTorch has only one such number.

        Raises:
            BackendError: PyTorch is not installed, or the GPU has too little memory.
            BundleError: The file has an operator that the exporter does not write.
        """
        try:
            import torch
        except ImportError:
            raise self.missing_library() from None
        _FORK_GUARD.enter()
        check_network_file(network)
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            return TorchSession(TorchGraph(network, device), device, capture=device == "cuda")
        except torch.OutOfMemoryError as e:
            raise BackendError(f"not enough memory on the GPU for {network}: {str(e).splitlines()[0]}") from None
        except StylertError:
            raise
        except Exception as e:  # a network that is not valid fails in its own way
            raise BundleError(f"PyTorch cannot load {network}: {reason(e)}") from e


class TorchSession:
    """A session that prepares the network for the batch of the last call. Calls from several threads run one by one.

    With `device` "cuda" this is a `DeviceSession`. With "cpu" it does the same in host memory.
    """

    ranges = ANY_BATCH
    concurrency = 1

    def __init__(self, graph: TorchGraph, device: str, capture: bool) -> None:
        """`capture` allows CUDA graphs."""
        self.device, self.capture = device, capture
        self.tensors: Sequence[TensorSpec] = graph.tensors
        self.image: TensorSpec = graph.image
        self.notes: list[str] = []
        self._graph: TorchGraph | None = graph
        self._lock = threading.Lock()
        self._prepared: PreparedBatch | None = None

    def run(self, inputs: Inputs) -> np.ndarray:
        with self._lock, self._inference():
            images: np.ndarray = self._images(inputs).to("cpu", copy=True).numpy()
            return images

    def run_into(self, inputs: Inputs, out: int) -> None:
        shape = (len(inputs["ws"]), *self.image.shape)
        with self._lock, self._inference():
            self._tensor_at(out, shape, self.image.dtype).copy_(self._images(inputs))
            self._synchronize()

    def new_images(self, n: int, spare: int = 0) -> DeviceArray:
        import torch

        dtype = getattr(torch, self.image.dtype.name)
        try:
            images = torch.empty((n + spare, *self.image.shape), dtype=dtype, device=self.device)[:n]
        except RuntimeError as e:
            raise BackendError(f"not enough memory on the GPU for {n} images: {str(e).splitlines()[0]}") from None

        def copy_to_host() -> np.ndarray:
            copy: np.ndarray = images.to("cpu", copy=True).numpy()
            return copy

        return DeviceArray(images.data_ptr(), tuple(images.shape), self.image.dtype, copy_to_host, self._dlpack_device())

    def timed_run(self, inputs: Inputs) -> Timings:
        """Times by the GPU's clock. Both copies use memory that is not pinned, as in `run`."""
        import torch

        events = [torch.cuda.Event(enable_timing=True) for _ in range(4)]
        with self._lock, self._inference():
            start = time.perf_counter()
            image = self._images(inputs, events)
            enqueue = 1000 * (time.perf_counter() - start)
            image.to("cpu", copy=True)
            events[3].record()
            self._synchronize()
        h2d, compute, d2h = (before.elapsed_time(after) for before, after in itertools.pairwise(events))
        return Timings(h2d, compute, d2h, enqueue)

    def layer_times(self, inputs: HostInputs) -> list[tuple[str, float]]:
        """The output's name and the milliseconds of every node, by PyTorch's profiler, without a CUDA graph."""
        from torch.profiler import ProfilerActivity, profile, record_function

        on_gpu = self.device == "cuda"
        activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
        graph = self._network()
        with self._lock, self._inference():
            tensors = {name: self._tensor(value).to(self.device) for name, value in inputs.items()}
            with profile(activities=activities) as profiler:
                graph(tensors, lambda i: record_function(f"{NODE_MARK}{i}"))
                self._synchronize()
        averages = {e.key: e for e in profiler.key_averages() if e.key.startswith(NODE_MARK)}
        times = []
        for i, name in enumerate(graph.results):
            average = averages[f"{NODE_MARK}{i}"]
            microseconds = average.device_time_total if on_gpu else average.cpu_time_total
            times.append((name, microseconds / 1000))
        return times

    def close(self) -> None:
        with self._lock:
            self._graph = self._prepared = None

    def _network(self) -> TorchGraph:
        assert self._graph is not None, "the session is closed"
        return self._graph

    def _images(self, inputs: Inputs, events: Sequence[torch.cuda.Event] = ()) -> torch.Tensor:
        """The images, in memory that the next call overwrites. `events` are those of `PreparedBatch.run`."""
        batch = len(inputs["ws"])
        tensors = {name: self._tensor(value) for name, value in inputs.items()}
        if self._prepared is None or self._prepared.batch != batch:
            self._prepared = None  # frees its memory before the next one allocates
            self._prepared = PreparedBatch(self, self._network(), tensors, batch)
        return self._prepared.run(tensors, events)

    def _tensor(self, value: np.ndarray | DeviceView) -> torch.Tensor:
        """A tensor on the memory of an input. The current stream waits for the stream that writes it."""
        import torch

        if not isinstance(value, DeviceView):
            return torch.from_numpy(value)
        if value.stream is not None:
            writer = torch.cuda.default_stream() if value.stream == LEGACY_STREAM else torch.cuda.ExternalStream(value.stream)
            torch.cuda.current_stream().wait_stream(writer)
        return self._tensor_at(value.pointer, value.shape, value.dtype)

    def _tensor_at(self, pointer: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> torch.Tensor:
        import torch

        tensor: torch.Tensor = torch.from_dlpack(dlpack.to_capsule(pointer, shape, dtype, self._dlpack_device(), None))
        return tensor

    def _dlpack_device(self) -> tuple[int, int]:
        return FIRST_GPU if self.device == "cuda" else HOST

    def _synchronize(self) -> None:
        if self.device == "cuda":
            import torch

            torch.cuda.current_stream().synchronize()

    @contextlib.contextmanager
    def _inference(self) -> Iterator[None]:
        """Inference mode, without TF32. A failed allocation becomes OutOfMemory and frees the prepared batch."""
        import torch

        _FORK_GUARD.enter()
        try:
            with torch.inference_mode(), _exact_float32():
                yield
        except StylertError:
            raise
        except Exception as e:
            if is_out_of_memory(e) or isinstance(e, torch.OutOfMemoryError):
                self._prepared = None
                raise OutOfMemory("PyTorch: not enough memory for this batch") from None
            raise BackendError(f"PyTorch cannot run this network: {reason(e)}") from e


class PreparedBatch:
    """The network for one batch, with its input tensors on the device.

    The second run captures a CUDA graph and later runs replay it. Batches that change with every call are never captured.
    """

    def __init__(self, session: TorchSession, network: TorchGraph, inputs: Mapping[str, torch.Tensor], batch: int) -> None:
        self.batch, self._runs = batch, 0
        self._session, self._network = session, network
        self._inputs = {name: value.to(session.device, copy=True) for name, value in inputs.items()}
        self._graph: torch.cuda.CUDAGraph | None = None
        self._image: torch.Tensor | None = None

    def run(self, inputs: Mapping[str, torch.Tensor], events: Sequence[torch.cuda.Event] = ()) -> torch.Tensor:
        """The images. Three `events`, if given, are recorded before the inputs, after them and after the network."""
        self._runs += 1
        if self._runs == 2 and self._session.capture:
            self._capture()
        remaining = iter(events)
        _record_next(remaining)
        for name, value in inputs.items():
            self._inputs[name].copy_(value)
        _record_next(remaining)
        if self._graph is None or self._image is None:
            self._image = self._network(self._inputs).contiguous()
        else:
            self._graph.replay()
        _record_next(remaining)
        return self._image

    def _capture(self) -> None:
        import torch

        # A capture must not compile kernels, so one run comes before it, on a stream of its own as PyTorch demands.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._network(self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._image = self._network(self._inputs).contiguous()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as e:
            self._session.capture = False
            note_missing_graph(self._session.notes, e)
        else:
            self._graph = graph


@contextlib.contextmanager
def _exact_float32() -> Iterator[None]:
    """Switch TF32 off for float32 products, and back to what it was. It has too few bits for the accuracy of fp32.

    By default PyTorch takes TF32 in convolutions. Its older settings are changed, because they can always be read. If the
    program has set the newer ones to something that the older cannot say, the newer are changed.
    """
    import torch

    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    settings: list[tuple[Any, str, Any]] = [(matmul, "allow_tf32", False), (cudnn, "allow_tf32", False)]
    try:
        before = [getattr(owner, name) for owner, name, _ in settings]
    except RuntimeError:
        settings = [(owner, "fp32_precision", "ieee") for owner in (matmul, cudnn.conv)]
        before = [getattr(owner, name) for owner, name, _ in settings]
    try:
        for owner, name, value in settings:
            setattr(owner, name, value)
        yield
    finally:
        for (owner, name, _), value in zip(settings, before, strict=True):
            setattr(owner, name, value)


def _record_next(events: Iterator[torch.cuda.Event]) -> None:
    event = next(events, None)
    if event is not None:
        event.record()


#: PyTorch waits without end for the threads of the parent process, and CUDA refuses its children.
_FORK_GUARD = ForkGuard("PyTorch")

BACKEND = Torch()
