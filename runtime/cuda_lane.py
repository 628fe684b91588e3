"""One lane of a GPU session: an execution context with a stream, pinned memory, device memory and a CUDA graph of its own.

The graph holds the copies and the network for one batch and one set of addresses. What comes once runs call by call; what
comes a second time is captured, and from then on is one launch and one wait. So an application that makes one image after the
other pays one launch an image, and one whose batches or arrays change never pays for captures that it does not use.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stylert.runtime.arrays import OnDevice
from stylert.runtime.batching import BatchRange, profile_for
from stylert.runtime.cuda_driver import call
from stylert.runtime.errors import BackendError

#: What a graph is captured for: the batch, the address of every tensor, and whether the images are copied to the host.
Key = tuple[int, tuple[int, ...], bool]


@dataclass(frozen=True)
class Tensor:
    """One input or output of an engine. `shape` is that of one image."""

    name: str
    is_input: bool
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def nbytes(self, batch: int) -> int:
        return batch * math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Buffer:
    """A tensor's memory for the largest batch: on the device, and pinned in the host."""

    device: int
    host: np.ndarray  # bytes

    def view(self, tensor: Tensor, batch: int) -> np.ndarray:
        return self.host[: tensor.nbytes(batch)].view(tensor.dtype).reshape(batch, *tensor.shape)


class Lane:
    """Runs one batch at a time. The driver's context must be current. Raises OutOfMemory where memory is too little."""

    def __init__(self, driver: Any, context: Any, tensors: Sequence[Tensor], ranges: Sequence[BatchRange]) -> None:
        self._driver, self._context, self._tensors, self._ranges = driver, context, tensors, ranges
        self._buffers: dict[str, Buffer] = {}
        self._graph: Any = None
        self._captured: Key | None = None
        self._last: Key | None = None
        self._set: tuple[int, int] = (0, 0)  # profile and batch of the context
        self._stream = call(driver.cuStreamCreate, driver.CUstream_flags.CU_STREAM_NON_BLOCKING.value)
        self._event: Any = None
        largest = max(most for _, _, most in ranges)
        try:
            self._event = call(driver.cuEventCreate, driver.CUevent_flags.CU_EVENT_DISABLE_TIMING.value)
            for tensor in tensors:
                self._buffers[tensor.name] = self._allocate(tensor.nbytes(largest))
        except BaseException:
            self.close()
            raise

    def run(self, inputs: dict[str, np.ndarray | OnDevice], batch: int, out: int | None = None) -> np.ndarray | None:
        """Images `[batch, ...]` in new host memory; with `out`, the address of device memory, there instead.

        Inputs on the device are read where they lie, after the work of their streams.
        """
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
        self._launch(addresses, batch, out is None)
        call(self._driver.cuStreamSynchronize, self._stream)
        return None if out is not None else self._buffers["image"].view(self._image, batch).copy()

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
        call(driver.cuStreamDestroy, self._stream)

    @property
    def _image(self) -> Tensor:
        return next(t for t in self._tensors if t.name == "image")

    def _wait_for(self, array: OnDevice) -> None:
        if array.stream is not None:
            call(self._driver.cuEventRecord, self._event, array.stream)
            call(self._driver.cuStreamWaitEvent, self._stream, self._event, 0)

    def _launch(self, addresses: dict[str, int], batch: int, to_host: bool) -> None:
        key = (batch, tuple(addresses.values()), to_host)
        if key != self._captured:
            if (profile_for(batch, self._ranges), batch) != self._set:
                self._forget_graph()  # TensorRT promises nothing of a graph whose context has changed its shapes
                self._reshape(batch)
            if key != self._last or not self._capturable():
                self._last = key
                self._enqueue(addresses, batch, to_host)
                return
            self._capture(addresses, batch, to_host)
            self._captured = key
        self._last = key
        call(self._driver.cuGraphLaunch, self._graph, self._stream)

    def _capturable(self) -> bool:
        """TensorRT-RTX says when it cannot be captured yet; TensorRT always can."""
        asked = getattr(self._context, "is_stream_capturable", None)
        return asked is None or bool(asked(int(self._stream)))

    def _reshape(self, batch: int) -> None:
        profile = profile_for(batch, self._ranges)
        if profile != self._set[0] and not self._context.set_optimization_profile_async(profile, int(self._stream)):
            raise BackendError(f"the engine does not take its profile {profile}")
        for tensor in self._tensors:
            if tensor.is_input and not self._context.set_input_shape(tensor.name, (batch, *tensor.shape)):
                raise BackendError(f"the engine does not take a batch of {batch}")
        self._set = (profile, batch)

    def _capture(self, addresses: dict[str, int], batch: int, to_host: bool) -> None:
        driver = self._driver
        self._forget_graph()
        call(driver.cuStreamBeginCapture, self._stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        try:
            self._enqueue(addresses, batch, to_host)
        finally:
            graph = call(driver.cuStreamEndCapture, self._stream)
        try:
            self._graph = call(driver.cuGraphInstantiate, graph, 0)
        finally:
            call(driver.cuGraphDestroy, graph)

    def _enqueue(self, addresses: dict[str, int], batch: int, to_host: bool) -> None:
        driver = self._driver
        for tensor in self._tensors:
            buffer, address = self._buffers[tensor.name], addresses[tensor.name]
            self._context.set_tensor_address(tensor.name, address)
            if tensor.is_input and address == buffer.device:
                call(driver.cuMemcpyHtoDAsync, address, buffer.host.ctypes.data, tensor.nbytes(batch), self._stream)
        if not self._context.execute_async_v3(int(self._stream)):
            raise BackendError(f"the engine failed on a batch of {batch}")
        if to_host:
            image, buffer = self._image, self._buffers["image"]
            call(driver.cuMemcpyDtoHAsync, buffer.host.ctypes.data, buffer.device, image.nbytes(batch), self._stream)

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
