"""A built TensorRT or TensorRT-RTX engine on the GPU, without torch: one stream, pinned memory, a CUDA graph.

The graph holds the copies and the network for one batch size, that of the last call; another size is captured anew. So
the one-image path of an application is a copy into pinned memory, one launch, and one wait.
"""

from __future__ import annotations

import ctypes
import math
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stylert.runtime.errors import BackendError, BundleError, missing_extra


@dataclass(frozen=True)
class Tensor:
    """One input or output with its memory, which holds the largest batch. `shape` is that of one image."""

    name: str
    is_input: bool
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    device: int
    host: np.ndarray  # pinned, bytes

    def nbytes(self, batch: int) -> int:
        return batch * math.prod(self.shape) * self.dtype.itemsize

    def view(self, batch: int) -> np.ndarray:
        """The pinned memory as an array `[batch, ...]`."""
        return self.host[: self.nbytes(batch)].view(self.dtype).reshape(batch, *self.shape)


class DeviceArray:
    """Images that stay on the device, for CuPy, PyTorch, PyCUDA and others to take without a copy.

    The memory is this object's own and is given back with it, also after the session has closed.
    """

    def __init__(self, driver: Any, gpu: Any, pointer: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._driver, self._gpu, self._pointer, self.shape, self.dtype = driver, gpu, pointer, shape, dtype
        self._cuda = _call(driver.cuDevicePrimaryCtxRetain, gpu)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        # No stream is named: the work that wrote this memory is over.
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (self._pointer, False), "version": 3}

    def __del__(self) -> None:
        self._driver.cuCtxSetCurrent(self._cuda)
        self._driver.cuMemFree(self._pointer)
        self._driver.cuDevicePrimaryCtxRelease(self._gpu)


class CudaSession:
    """A `Session` on the first GPU. Calls from several threads take turns.

    `trt` is the TensorRT or TensorRT-RTX module. Raises BackendError for a missing library, an engine that the runtime
    refuses (another version, another GPU) or too little memory, and BundleError for an engine that is not `ws` to `image`.
    """

    def __init__(self, trt: Any, engine_file: Path) -> None:
        self._driver = driver = _driver()
        self._lock = threading.Lock()
        self._freed = False
        self._tensors: list[Tensor] = []
        self._graph: Any = None
        self._batch = 0  # of the graph
        _call(driver.cuInit, 0)
        self._gpu = _call(driver.cuDeviceGet, 0)
        self._cuda = _call(driver.cuDevicePrimaryCtxRetain, self._gpu)
        _call(driver.cuCtxSetCurrent, self._cuda)
        self._stream = _call(driver.cuStreamCreate, driver.CUstream_flags.CU_STREAM_NON_BLOCKING.value)
        try:
            self._open(trt, engine_file)
        except BaseException:
            self.close()
            raise

    def _open(self, trt: Any, engine_file: Path) -> None:
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(engine_file.read_bytes())
        if self._engine is None:
            raise BackendError(f"{trt.__name__} {trt.__version__} refuses engine {engine_file}; build it again for this GPU")
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        if "ws" not in names or "image" not in names:
            raise BundleError(f"engine {engine_file} does not map ws to image")
        least, _, most = self._engine.get_tensor_profile_shape("ws", 0)
        #: Least and largest batch of the engine
        self.batches = (int(least[0]), int(most[0]))
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise self._out_of_memory()
        for name in names:
            tensor = self._allocate(trt, name)
            self._tensors.append(tensor)
            self._context.set_tensor_address(name, tensor.device)

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Images `[N, ...]` in host memory; N within `batches`."""
        batch = len(inputs["ws"])
        with self._lock:
            self._launch(inputs, batch)
            return self._output.view(batch).copy()

    def run_on_device(self, inputs: dict[str, np.ndarray]) -> DeviceArray:
        """The same images, in new device memory."""
        batch, image, driver = len(inputs["ws"]), self._output, self._driver
        with self._lock:
            self._launch(inputs, batch)
            pointer = int(_call(driver.cuMemAlloc, image.nbytes(batch)))
            array = DeviceArray(driver, self._gpu, pointer, (batch, *image.shape), image.dtype)
            _call(driver.cuMemcpyDtoDAsync, pointer, image.device, image.nbytes(batch), self._stream)
            _call(driver.cuStreamSynchronize, self._stream)
        return array

    def close(self) -> None:
        """Give back all memory, on the device and pinned."""
        with self._lock:
            if self._freed:
                return
            self._freed = True
            driver = self._driver
            _call(driver.cuCtxSetCurrent, self._cuda)
            self._forget_graph()
            for tensor in self._tensors:
                _call(driver.cuMemFree, tensor.device)
                _call(driver.cuMemFreeHost, tensor.host.ctypes.data)
            self._tensors = []
            self._context = self._engine = self._runtime = None
            _call(driver.cuStreamDestroy, self._stream)
            _call(driver.cuDevicePrimaryCtxRelease, self._gpu)

    @property
    def _output(self) -> Tensor:
        return next(t for t in self._tensors if t.name == "image")

    def _launch(self, inputs: dict[str, np.ndarray], batch: int) -> None:
        driver = self._driver
        _call(driver.cuCtxSetCurrent, self._cuda)  # current contexts belong to threads
        for tensor in self._tensors:
            if tensor.is_input:
                np.copyto(tensor.view(batch), inputs[tensor.name])
        if batch != self._batch:
            self._capture(batch)
        else:
            _call(driver.cuGraphLaunch, self._graph, self._stream)
        _call(driver.cuStreamSynchronize, self._stream)

    def _capture(self, batch: int) -> None:
        """Run once for the new shape, in which TensorRT sets itself up, and record the same for the next calls."""
        driver = self._driver
        self._forget_graph()
        for tensor in self._tensors:
            if tensor.is_input:
                self._context.set_input_shape(tensor.name, (batch, *tensor.shape))
        self._enqueue(batch)
        _call(driver.cuStreamSynchronize, self._stream)
        _call(driver.cuStreamBeginCapture, self._stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        try:
            self._enqueue(batch)
        finally:
            graph = _call(driver.cuStreamEndCapture, self._stream)
        try:
            self._graph = _call(driver.cuGraphInstantiate, graph, 0)
        finally:
            _call(driver.cuGraphDestroy, graph)
        self._batch = batch

    def _enqueue(self, batch: int) -> None:
        driver = self._driver
        for tensor in self._tensors:
            if tensor.is_input:
                source = tensor.host.ctypes.data
                _call(driver.cuMemcpyHtoDAsync, tensor.device, source, tensor.nbytes(batch), self._stream)
        if not self._context.execute_async_v3(int(self._stream)):
            raise BackendError(f"the engine failed on a batch of {batch}")
        image = self._output
        _call(driver.cuMemcpyDtoHAsync, image.host.ctypes.data, image.device, image.nbytes(batch), self._stream)

    def _forget_graph(self) -> None:
        if self._graph is not None:
            _call(self._driver.cuGraphExecDestroy, self._graph)
        self._graph, self._batch = None, 0

    def _allocate(self, trt: Any, name: str) -> Tensor:
        dtype = np.dtype(trt.nptype(self._engine.get_tensor_dtype(name)))
        shape = tuple(int(n) for n in self._engine.get_tensor_shape(name))[1:]
        size = self.batches[1] * math.prod(shape) * dtype.itemsize
        status, device = self._driver.cuMemAlloc(size)
        if status != self._driver.CUresult.CUDA_SUCCESS:
            raise self._out_of_memory()
        try:
            address = int(_call(self._driver.cuMemHostAlloc, size, 0))
        except BackendError:
            self._driver.cuMemFree(device)
            raise
        host = np.frombuffer((ctypes.c_uint8 * size).from_address(address), np.uint8)
        return Tensor(name, self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT, dtype, shape, int(device), host)

    def _out_of_memory(self) -> BackendError:
        """What the largest batch needs and what is free, and with it the batch that would fit: memory grows with the batch."""
        need = int(self._engine.device_memory_size_v2)
        free, _ = _call_two(self._driver.cuMemGetInfo)
        fits = max(self.batches[1] * free // max(need, 1), 1)
        return BackendError(
            f"the engine's batch of {self.batches[1]} needs {need / 2**20:.0f} MiB on the GPU, where {free / 2**20:.0f} are free; "
            f"build one with --batch up to {min(fits, self.batches[1])}"
        )


def _driver() -> Any:
    try:
        from cuda.bindings import driver
    except ImportError:
        raise missing_extra("cuda-bindings", "tensorrt-rtx") from None
    return driver


def _call(function: Any, *arguments: Any) -> Any:
    """Call a driver function, which returns its status first. Raises BackendError with the driver's word for a failure."""
    try:
        status, *values = function(*arguments)
    except RuntimeError as e:  # the package finds no driver library
        raise BackendError(f"CUDA: {' '.join(str(e).split())}") from None
    if status.value != 0:
        raise BackendError(f"CUDA: {status.name} in {function.__name__}")
    return values[0] if values else None


def _call_two(function: Any) -> tuple[int, int]:
    status, first, second = function()
    if status.value != 0:
        raise BackendError(f"CUDA: {status.name} in {function.__name__}")
    return int(first), int(second)
