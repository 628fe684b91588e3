"""The network for one batch: its inputs on the device, its CUDA graph, and the settings under which it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stylert.runtime.backends.torch_network.graph import TorchGraph

if TYPE_CHECKING:
    import torch


class PreparedBatch:
    """The network for one batch, with its input tensors on the device.

    The second run captures a CUDA graph and later runs replay it. Batches that change with every call are never captured.
    Inputs in host memory go through pinned memory, which the device reads by itself.

    Args:
        network: The network.
        inputs: The inputs of the first run, in host memory or on the device. They give names, shapes and types.
        on_capture_failure: Called with the reason when a graph cannot be captured. Later runs then do without.
            None if no graph is to be captured.
    """

    def __init__(
        self,
        network: TorchGraph,
        inputs: Mapping[str, torch.Tensor],
        on_capture_failure: Callable[[RuntimeError], None] | None,
    ) -> None:
        import torch

        self.batch = len(inputs["ws"])
        self._runs, self._network, self._on_capture_failure = 0, network, on_capture_failure
        self._inputs = {name: value.to(network.device, copy=True) for name, value in inputs.items()}
        self._pinned = {}
        if network.device == "cuda":
            self._pinned = {name: torch.empty_like(value, device="cpu", pin_memory=True) for name, value in inputs.items()}
        self._graph: torch.cuda.CUDAGraph | None = None
        self._image: torch.Tensor | None = None

    def run(self, inputs: Mapping[str, torch.Tensor], events: Sequence[torch.cuda.Event] = ()) -> torch.Tensor:
        """The images, in memory that the next run overwrites.

        The work of the run before must be complete, because this one writes to the same pinned memory.

        Args:
            inputs: With the names, shapes and types of the first run.
            events: Three events, to record before the inputs, after them and after the network; or none.
        """
        self._runs += 1
        if self._runs == 2 and self._on_capture_failure is not None:
            self._capture(self._on_capture_failure)
        remaining = iter(events)
        _record_next(remaining)
        for name, value in inputs.items():
            if name in self._pinned and value.device.type == "cpu":
                value = self._pinned[name].copy_(value)
            self._inputs[name].copy_(value, non_blocking=True)
        _record_next(remaining)
        if self._graph is None or self._image is None:
            self._image = self._network(self._inputs).contiguous()
        else:
            self._graph.replay()
        _record_next(remaining)
        return self._image

    def _capture(self, on_failure: Callable[[RuntimeError], None]) -> None:
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
            on_failure(e)
        else:
            self._graph = graph


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
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
