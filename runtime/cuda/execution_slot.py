"""The part of a GPU session that runs one batch at a time: a context, a stream, memory and a CUDA graph.

The graph holds the copies and the network for one batch size and one set of addresses. Call by call:

1. The first call with a batch size and addresses runs without a graph.
2. If the next call has the same, it captures the graph and launches it.
3. Every later call with the same is one launch and one wait.

So calls that always change never pay for a capture.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from stylert.core.errors import BackendError
from stylert.runtime.batching import BatchRange, profile_for
from stylert.runtime.cuda.arrays import DeviceView
from stylert.runtime.cuda.driver import call, release
from stylert.runtime.session import Inputs, TensorSpec, Timings

#: The alignment in bytes of every address that TensorRT takes (`setTensorAddress` in `NvInferRuntime.h`)
ALIGNMENT = 256


class Work(NamedTuple):
    """The work of one call. A CUDA graph holds exactly one such value.

    Attributes:
        batch: The number of images.
        addresses: The device address of every tensor, in the order of the engine's tensors: the slot's or the caller's.
        to_host: Whether the images are copied to the host.
        timed: Whether events measure its parts.
    """

    batch: int
    addresses: tuple[int, ...]
    to_host: bool
    timed: bool


@dataclass(frozen=True)
class Buffer:
    """The memory of one tensor for the largest batch: the address on the device, and pinned bytes in the host."""

    device: int
    host: np.ndarray

    def view(self, tensor: TensorSpec, batch: int) -> np.ndarray:
        """The pinned memory as `[batch, ...]` in the tensor's type."""
        return self.host[: tensor.nbytes(batch)].view(tensor.dtype).reshape(batch, *tensor.shape)


class ExecutionSlot:
    """Runs one batch at a time. The driver's context must be current in the calling thread.

    Args:
        driver: The driver's functions.
        context: TensorRT's execution context, which belongs to this slot alone.
        tensors: The engine's inputs and its output `image`.
        ranges: The batches of every optimisation profile.
        reports_capturable: Whether the context itself says if it can be captured, as those of TensorRT-RTX do.
        on_capture_failure: Called with the reason when a graph cannot be captured. Calls then go on without graphs.

    Raises:
        OutOfMemory: There is too little memory for the largest batch.
    """

    def __init__(
        self,
        driver: Any,
        context: Any,
        tensors: Sequence[TensorSpec],
        ranges: Sequence[BatchRange],
        reports_capturable: bool,
        on_capture_failure: Callable[[BackendError], None],
    ) -> None:
        self._driver, self._context, self._tensors, self._ranges = driver, context, tensors, ranges
        self._image = next(tensor for tensor in tensors if tensor.name == "image")
        self._reports_capturable, self._on_capture_failure = reports_capturable, on_capture_failure
        self._uses_graphs = True
        self._graph: Any = None
        self._captured: Work | None = None
        self._previous: Work | None = None
        self._profile = self._batch = 0  # for which the context is set
        self._buffers: dict[str, Buffer] = {}
        self._input_event: Any = None
        self._time_events: list[Any] = []  # before the input copies, after them, after the network, and at the end
        self._stream = call(driver.cuStreamCreate, driver.CUstream_flags.CU_STREAM_NON_BLOCKING.value)
        largest = max(most for _, _, most in ranges)
        try:
            self._input_event = call(driver.cuEventCreate, driver.CUevent_flags.CU_EVENT_DISABLE_TIMING.value)
            for tensor in tensors:
                self._buffers[tensor.name] = self._allocate(tensor.nbytes(largest))
        except BaseException:
            self.close()
            raise

    def run(self, inputs: Inputs, batch: int) -> np.ndarray:
        """Images `[batch, ...]` in new host memory.

        Inputs on the GPU are read in place, after the work of their streams.
        """
        self._submit(self._prepare(inputs, batch))
        call(self._driver.cuStreamSynchronize, self._stream)
        return self._buffers["image"].view(self._image, batch).copy()

    def run_into(self, inputs: Inputs, batch: int, out: int) -> None:
        """Write the images to device memory at the address `out`. They are complete when this returns."""
        self._submit(self._prepare(inputs, batch, out))
        call(self._driver.cuStreamSynchronize, self._stream)

    def timed_run(self, inputs: Inputs, batch: int) -> Timings:
        """Run as `run`, with events around the copies and the network. A graph holds the events as well."""
        driver = self._driver
        while len(self._time_events) < 4:
            self._time_events.append(call(driver.cuEventCreate, driver.CUevent_flags.CU_EVENT_DEFAULT.value))
        work = self._prepare(inputs, batch, timed=True)
        start = time.perf_counter()
        self._submit(work)
        enqueue = 1000 * (time.perf_counter() - start)
        call(driver.cuStreamSynchronize, self._stream)
        h2d, compute, d2h = (float(call(driver.cuEventElapsedTime, a, b)) for a, b in pairwise(self._time_events))
        return Timings(h2d, compute, d2h, enqueue)

    def profiled_run(self, inputs: Inputs, batch: int, profiler: Any) -> None:
        """Run once without a graph. The library reports the time of every layer to `profiler`."""
        self._context.profiler = profiler
        self._previous = None
        self._forget_graph()
        try:
            self._set_batch(batch)
            self._enqueue(self._prepare(inputs, batch), in_graph=False)
            call(self._driver.cuStreamSynchronize, self._stream)
        finally:
            self._context.profiler = None

    def close(self) -> None:
        """Free the graph, all memory, the events and the stream, also after an error of the device."""
        driver = self._driver
        self._forget_graph()
        for buffer in self._buffers.values():
            release(driver.cuMemFree, buffer.device)
            release(driver.cuMemFreeHost, buffer.host.ctypes.data)
        self._buffers = {}
        self._context = None
        if self._input_event is not None:
            release(driver.cuEventDestroy, self._input_event)
        for event in self._time_events:
            release(driver.cuEventDestroy, event)
        self._time_events = []
        release(driver.cuStreamDestroy, self._stream)

    def _prepare(self, inputs: Inputs, batch: int, out: int | None = None, timed: bool = False) -> Work:
        """Copy host inputs into pinned memory, make our stream wait for those of device inputs, and list all addresses."""
        addresses = []
        for tensor in self._tensors:
            buffer = self._buffers[tensor.name]
            address = buffer.device
            if tensor.is_input:
                value = inputs[tensor.name]
                if isinstance(value, DeviceView):
                    address = value.pointer
                    self._wait_for_producer(value)
                else:
                    np.copyto(buffer.view(tensor, batch), value)
            elif out is not None:
                address = out
            addresses.append(address)
        return Work(batch, tuple(addresses), to_host=out is None, timed=timed)

    def _wait_for_producer(self, array: DeviceView) -> None:
        if array.stream is not None:
            call(self._driver.cuEventRecord, self._input_event, array.stream)
            call(self._driver.cuStreamWaitEvent, self._stream, self._input_event, 0)

    def _submit(self, work: Work) -> None:
        """Launch the graph of this work, if there is one or it can be captured now; otherwise enqueue its calls."""
        if work != self._captured:
            self._set_batch(work.batch)
            repeated = work == self._previous
            self._previous = work
            if not (repeated and self._can_capture() and self._capture(work)):
                self._enqueue(work, in_graph=False)
                return
        self._previous = work
        call(self._driver.cuGraphLaunch, self._graph, self._stream)

    def _set_batch(self, batch: int) -> None:
        """Set the context's profile and shapes. A graph that was captured before may be invalid then, so it is dropped."""
        profile = profile_for(batch, self._ranges)
        if (profile, batch) == (self._profile, self._batch):
            return
        self._forget_graph()
        if profile != self._profile and not self._context.set_optimization_profile_async(profile, int(self._stream)):
            raise BackendError(f"the engine does not take its profile {profile}")
        for tensor in self._tensors:
            if tensor.is_input and not self._context.set_input_shape(tensor.name, (batch, *tensor.shape)):
                raise BackendError(f"the engine does not take a batch of {batch}")
        self._profile, self._batch = profile, batch

    def _can_capture(self) -> bool:
        """Whether to try a capture. With TensorRT only a try shows whether an engine can be captured."""
        if not self._uses_graphs:
            return False
        return not self._reports_capturable or bool(self._context.is_stream_capturable(int(self._stream)))

    def _capture(self, work: Work) -> bool:
        """Capture the graph of this work. If that fails, return False and try no other capture."""
        driver = self._driver
        self._forget_graph()
        try:
            call(driver.cuStreamBeginCapture, self._stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            try:
                self._enqueue(work, in_graph=True)
            finally:
                graph = call(driver.cuStreamEndCapture, self._stream)
            try:
                self._graph = call(driver.cuGraphInstantiate, graph, 0)
            finally:
                call(driver.cuGraphDestroy, graph)
        except BackendError as e:
            self._uses_graphs = False
            self._on_capture_failure(e)
            return False
        self._captured = work
        return True

    def _enqueue(self, work: Work, in_graph: bool) -> None:
        """Submit the input copies, the network and the copy of the images to the stream.

        Tensors at addresses that TensorRT does not take go through the memory of this slot.
        """
        self._record_time(0, work, in_graph)
        for tensor, address in zip(self._tensors, work.addresses, strict=True):
            buffer = self._buffers[tensor.name]
            bound = address if address % ALIGNMENT == 0 else buffer.device
            if not self._context.set_tensor_address(tensor.name, bound):
                raise BackendError(f"the engine does not take the memory of {tensor.name}")
            size = tensor.nbytes(work.batch)
            if tensor.is_input and address == buffer.device:
                call(self._driver.cuMemcpyHtoDAsync, address, buffer.host.ctypes.data, size, self._stream)
            elif tensor.is_input and address != bound:
                call(self._driver.cuMemcpyDtoDAsync, bound, address, size, self._stream)
        self._record_time(1, work, in_graph)
        if not self._context.execute_async_v3(int(self._stream)):
            raise BackendError(f"the engine failed on a batch of {work.batch}")
        self._record_time(2, work, in_graph)
        self._copy_images(work)
        self._record_time(3, work, in_graph)

    def _copy_images(self, work: Work) -> None:
        """Copy the images to the host, or to the caller's address if the engine could not write there."""
        buffer, size = self._buffers["image"], self._image.nbytes(work.batch)
        if work.to_host:
            call(self._driver.cuMemcpyDtoHAsync, buffer.host.ctypes.data, buffer.device, size, self._stream)
            return
        address = work.addresses[self._tensors.index(self._image)]
        if address % ALIGNMENT:
            call(self._driver.cuMemcpyDtoDAsync, address, buffer.device, size, self._stream)

    def _record_time(self, index: int, work: Work, in_graph: bool) -> None:
        """Record a time event, if this work is timed. In a graph only events with the external flag can be read later."""
        if not work.timed:
            return
        flags = self._driver.CUevent_record_flags
        flag = flags.CU_EVENT_RECORD_EXTERNAL if in_graph else flags.CU_EVENT_RECORD_DEFAULT
        call(self._driver.cuEventRecordWithFlags, self._time_events[index], self._stream, flag.value)

    def _forget_graph(self) -> None:
        if self._graph is not None:
            release(self._driver.cuGraphExecDestroy, self._graph)
        self._graph = self._captured = None

    def _allocate(self, size: int) -> Buffer:
        device = int(call(self._driver.cuMemAlloc, size))
        try:
            address = int(call(self._driver.cuMemHostAlloc, size, 0))
        except BaseException:
            call(self._driver.cuMemFree, device)
            raise
        return Buffer(device, np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address)))
