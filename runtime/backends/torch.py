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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stylert.core.errors import BackendError, BundleError, OutOfMemory, StylertError, install_command
from stylert.runtime.backends.base import Backend, BackendFacts, LoadOptions, is_out_of_memory, reason
from stylert.runtime.backends.torch_network.graph import TorchGraph
from stylert.runtime.backends.torch_network.host_images import HostImages
from stylert.runtime.backends.torch_network.prepared_batch import PreparedBatch, exact_float32
from stylert.runtime.batching import ANY_BATCH
from stylert.runtime.cuda import dlpack
from stylert.runtime.cuda.arrays import LEGACY_STREAM, DeviceView
from stylert.runtime.cuda.device_array import FIRST_GPU, HOST, DeviceArray
from stylert.runtime.forking import ForkGuard
from stylert.runtime.network_files import check_network_file
from stylert.runtime.session import HostInputs, Inputs, TensorSpec, Timings, note_missing_graph

if TYPE_CHECKING:
    import torch

#: Prefix of a tensor's name, for the node that makes it, in a profile
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
        self._host_images = HostImages(pinned=device == "cuda")

    def run(self, inputs: Inputs) -> np.ndarray:
        with self._lock, self._inference():
            return self._host_images.copy_of(self._images(inputs))

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
        """Times by the GPU's clock. Both copies use pinned memory, as in `run`."""
        import torch

        events = [torch.cuda.Event(enable_timing=True) for _ in range(4)]
        with self._lock, self._inference():
            start = time.perf_counter()
            image = self._images(inputs, events)
            enqueue = 1000 * (time.perf_counter() - start)
            self._host_images.copy_of(image)
            events[3].record()
            self._synchronize()
        h2d, compute, d2h = (before.elapsed_time(after) for before, after in itertools.pairwise(events))
        return Timings(h2d, compute, d2h, enqueue)

    def layer_times(self, inputs: HostInputs) -> list[tuple[str, float]]:
        """The name and the milliseconds of every node, by PyTorch's profiler, without a CUDA graph."""
        from torch.profiler import ProfilerActivity, profile, record_function

        on_gpu = self.device == "cuda"
        activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
        graph = self._network()
        with self._lock, self._inference():
            tensors = {name: self._tensor(value).to(self.device) for name, value in inputs.items()}
            with profile(activities=activities) as profiler:
                graph(tensors, lambda node, operands: record_function(NODE_MARK + node.outputs[0]))
                self._synchronize()
        averages = {e.key: e for e in profiler.key_averages() if e.key.startswith(NODE_MARK)}
        times = []
        for node in graph.nodes:
            average = averages[NODE_MARK + node.outputs[0]]
            microseconds = average.device_time_total if on_gpu else average.cpu_time_total
            times.append((node.name, microseconds / 1000))
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
            self._prepared = PreparedBatch(self._network(), tensors, self._without_graphs if self.capture else None)
        return self._prepared.run(tensors, events)

    def _without_graphs(self, reason: RuntimeError) -> None:
        self.capture = False
        note_missing_graph(self.notes, reason)

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
            with torch.inference_mode(), exact_float32():
                yield
        except StylertError:
            raise
        except Exception as e:
            if is_out_of_memory(e) or isinstance(e, torch.OutOfMemoryError):
                self._prepared = None
                raise OutOfMemory("PyTorch: not enough memory for this batch") from None
            raise BackendError(f"PyTorch cannot run this network: {reason(e)}") from e


#: PyTorch waits without end for the threads of the parent process, and CUDA refuses its children.
_FORK_GUARD = ForkGuard("PyTorch")

BACKEND = Torch()
