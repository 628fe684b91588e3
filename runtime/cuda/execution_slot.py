"""One lane of a GPU session: an execution context with a stream, pinned memory, device memory and a CUDA graph of its own.

The graph holds the copies and the network for one batch and one set of addresses. What comes once runs call by call; what
comes a second time is captured, and from then on is one launch and one wait. So an application that makes one image after the
other pays one launch an image, and one whose batches or arrays change never pays for captures that it does not use.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stylert.core.errors import BackendError
from stylert.runtime.batching import BatchRange, profile_for
from stylert.runtime.cuda.arrays import OnDevice
from stylert.runtime.cuda.driver import call
from stylert.runtime.session import Inputs, Tensor, Timings

#: What a graph is captured for: the batch, the address of every tensor, whether the images are copied to the host, and whether
#: it holds the events that time it.
Key = tuple[int, tuple[int, ...], bool, bool]


@dataclass(frozen=True)
class Buffer:
    """A tensor's memory for the largest batch: on the device, and pinned in the host."""

    device: int
    host: np.ndarray  # bytes

    def view(self, tensor: Tensor, batch: int) -> np.ndarray:
        return self.host[: tensor.nbytes(batch)].view(tensor.dtype).reshape(batch, *tensor.shape)


class Lane:
    """Runs one batch at a time. The driver's context must be current. Raises OutOfMemory where memory is too little.

    Where a graph cannot be captured, `on_no_graph` is told why, and calls go on one by one.
    """

    def __init__(
        self,
        driver: Any,
        context: Any,
        tensors: Sequence[Tensor],
        ranges: Sequence[BatchRange],
        on_no_graph: Callable[[BackendError], None],
    ) -> None:
        self._driver, self._context, self._tensors, self._ranges = driver, context, tensors, ranges
        self._on_no_graph = on_no_graph
        self._graphs = True
        self._buffers: dict[str, Buffer] = {}
        self._graph: Any = None
        self._captured: Key | None = None
        self._last: Key | None = None
        self._set: tuple[int, int] = (0, 0)  # profile and batch of the context
        self._stream = call(driver.cuStreamCreate, driver.CUstream_flags.CU_STREAM_NON_BLOCKING.value)
        self._event: Any = None
        self._clock: list[Any] = []  # events before the copies in, after them, after the network, and at the end
        largest = max(most for _, _, most in ranges)
        try:
            self._event = call(driver.cuEventCreate, driver.CUevent_flags.CU_EVENT_DISABLE_TIMING.value)
            for tensor in tensors:
                self._buffers[tensor.name] = self._allocate(tensor.nbytes(largest))
        except BaseException:
            self.close()
            raise

    def run(self, inputs: Inputs, batch: int, out: int | None = None) -> np.ndarray | None:
        """Images `[batch, ...]` in new host memory; with `out`, the address of device memory, there instead.

        Inputs on the device are read where they lie, after the work of their streams.
        """
        self._launch(self._place(inputs, batch, out), batch, out is None, False)
        call(self._driver.cuStreamSynchronize, self._stream)
        return None if out is not None else self._buffers["image"].view(self._image, batch).copy()

    def timed_run(self, inputs: Inputs, batch: int) -> Timings:
        """As `run` to the host, with events around copies and network, which a graph holds as well."""
        driver = self._driver
        while len(self._clock) < 4:
            self._clock.append(call(driver.cuEventCreate, driver.CUevent_flags.CU_EVENT_DEFAULT.value))
        addresses = self._place(inputs, batch, None)
        start = time.perf_counter()
        self._launch(addresses, batch, True, True)
        enqueue = 1000 * (time.perf_counter() - start)
        call(driver.cuStreamSynchronize, self._stream)
        begin, there, computed, end = self._clock
        pairs = ((begin, there), (there, computed), (computed, end))
        h2d, compute, d2h = (float(call(driver.cuEventElapsedTime, a, b)) for a, b in pairs)
        return Timings(h2d, compute, d2h, enqueue)

    def profiled_run(self, inputs: Inputs, batch: int, profiler: Any) -> None:
        """One call, launch by launch, of which the library tells `profiler` the time of each of its layers."""
        self._context.profiler = profiler
        self._last = None
        self._forget_graph()
        try:
            if (profile_for(batch, self._ranges), batch) != self._set:
                self._reshape(batch)
            self._enqueue(self._place(inputs, batch, None), batch, True, None)
            call(self._driver.cuStreamSynchronize, self._stream)
        finally:
            self._context.profiler = None

    def close(self) -> None:
        """Give back the graph, all memory, and the stream."""
        driver = self._driver
        self._forget_graph()
        for buffer in self._buffers.values():
            call(driver.cuMemFree, buffer.device)
            call(driver.cuMemFreeHost, buffer.host.ctypes.data)
        self._buffers = {}
        self._context = None
        if self._event is not None:
            call(driver.cuEventDestroy, self._event)
        for event in self._clock:
            call(driver.cuEventDestroy, event)
        self._clock = []
        call(driver.cuStreamDestroy, self._stream)

    @property
    def _image(self) -> Tensor:
        return next(t for t in self._tensors if t.name == "image")

    def _place(self, inputs: Inputs, batch: int, out: int | None) -> dict[str, int]:
        """Put inputs of the host into pinned memory, wait for those of the device; the address of every tensor."""
        addresses = {}
        for tensor in self._tensors:
            buffer = self._buffers[tensor.name]
            addresses[tensor.name] = buffer.device
            if tensor.is_input:
                value = inputs[tensor.name]
                if isinstance(value, OnDevice):
                    addresses[tensor.name] = value.pointer
                    self._wait_for(value)
                else:
                    np.copyto(buffer.view(tensor, batch), value)
            elif out is not None:
                addresses[tensor.name] = out
        return addresses

    def _wait_for(self, array: OnDevice) -> None:
        if array.stream is not None:
            call(self._driver.cuEventRecord, self._event, array.stream)
            call(self._driver.cuStreamWaitEvent, self._stream, self._event, 0)

    def _launch(self, addresses: dict[str, int], batch: int, to_host: bool, timed: bool) -> None:
        key = (batch, tuple(addresses.values()), to_host, timed)
        if key != self._captured:
            if (profile_for(batch, self._ranges), batch) != self._set:
                self._forget_graph()  # TensorRT promises nothing of a graph whose context has changed its shapes
                self._reshape(batch)
            if key != self._last or not self._capturable() or not self._capture(addresses, batch, to_host, timed):
                self._last = key
                self._enqueue(
                    addresses, batch, to_host, self._driver.CUevent_record_flags.CU_EVENT_RECORD_DEFAULT if timed else None
                )
                return
            self._captured = key
        self._last = key
        call(self._driver.cuGraphLaunch, self._graph, self._stream)

    def _capturable(self) -> bool:
        """TensorRT-RTX says when it cannot be captured yet; TensorRT always can, until it turns out otherwise."""
        asked = getattr(self._context, "is_stream_capturable", None)
        return self._graphs and (asked is None or bool(asked(int(self._stream))))

    def _reshape(self, batch: int) -> None:
        profile = profile_for(batch, self._ranges)
        if profile != self._set[0] and not self._context.set_optimization_profile_async(profile, int(self._stream)):
            raise BackendError(f"the engine does not take its profile {profile}")
        for tensor in self._tensors:
            if tensor.is_input and not self._context.set_input_shape(tensor.name, (batch, *tensor.shape)):
                raise BackendError(f"the engine does not take a batch of {batch}")
        self._set = (profile, batch)

    def _capture(self, addresses: dict[str, int], batch: int, to_host: bool, timed: bool) -> bool:
        """Whether there is a graph now. Where it fails, for an engine that does what a capture may not, none is tried again."""
        driver = self._driver
        self._forget_graph()
        external = driver.CUevent_record_flags.CU_EVENT_RECORD_EXTERNAL  # an event without it only orders the graph's own nodes
        try:
            call(driver.cuStreamBeginCapture, self._stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            try:
                self._enqueue(addresses, batch, to_host, external if timed else None)
            finally:
                graph = call(driver.cuStreamEndCapture, self._stream)
            try:
                self._graph = call(driver.cuGraphInstantiate, graph, 0)
            finally:
                call(driver.cuGraphDestroy, graph)
        except BackendError as e:
            self._graphs = False
            self._on_no_graph(e)
        return self._graphs

    def _enqueue(self, addresses: dict[str, int], batch: int, to_host: bool, clock: Any) -> None:
        """Copies in, network, copy out; with a `clock`, flags of an event's recording, events before, between and behind them."""
        self._mark(clock, 0)
        for tensor in self._tensors:
            buffer, address = self._buffers[tensor.name], addresses[tensor.name]
            self._context.set_tensor_address(tensor.name, address)
            if tensor.is_input and address == buffer.device:
                size = tensor.nbytes(batch)
                call(self._driver.cuMemcpyHtoDAsync, address, buffer.host.ctypes.data, size, self._stream)
        self._mark(clock, 1)
        if not self._context.execute_async_v3(int(self._stream)):
            raise BackendError(f"the engine failed on a batch of {batch}")
        self._mark(clock, 2)
        if to_host:
            image, buffer = self._image, self._buffers["image"]
            call(self._driver.cuMemcpyDtoHAsync, buffer.host.ctypes.data, buffer.device, image.nbytes(batch), self._stream)
        self._mark(clock, 3)

    def _mark(self, clock: Any, place: int) -> None:
        if clock is not None:
            call(self._driver.cuEventRecordWithFlags, self._clock[place], self._stream, clock.value)

    def _forget_graph(self) -> None:
        if self._graph is not None:
            call(self._driver.cuGraphExecDestroy, self._graph)
        self._graph = self._captured = None

    def _allocate(self, size: int) -> Buffer:
        device = int(call(self._driver.cuMemAlloc, size))
        try:
            address = int(call(self._driver.cuMemHostAlloc, size, 0))
        except BaseException:
            call(self._driver.cuMemFree, device)
            raise
        return Buffer(device, np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address)))
