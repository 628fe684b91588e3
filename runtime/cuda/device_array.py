"""Images that stay where they were computed, for CuPy, PyTorch, PyCUDA and others to take without a copy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from stylert.runtime.cuda import dlpack
from stylert.runtime.cuda.driver import call

#: The first GPU, and host memory, as DLPack names them
FIRST_GPU, HOST = (dlpack.CUDA, 0), (dlpack.CPU, 0)


class DeviceArray:
    """A C-contiguous array of `shape` and `dtype` on the first GPU, told by DLPack and `__cuda_array_interface__`.

    The memory belongs to whatever `read` holds on to, and is given back with this object, also after the session has closed.
    What wrote it is over, so no stream needs to wait for it. A session whose device is the CPU makes them in host memory.
    """

    def __init__(
        self,
        pointer: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        read: Callable[[], np.ndarray],
        device: tuple[int, int] = FIRST_GPU,
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self._pointer, self._read, self._device = pointer, read, device

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self._device != FIRST_GPU:
            raise AttributeError("this array lies in host memory")
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (self._pointer, False), "version": 3, "stream": None}

    def __dlpack__(self, *, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: Any = None) -> Any:
        """A capsule of DLPack 0.x; the borrower keeps this object alive. Raises BufferError for another device, or a copy."""
        if dl_device not in (None, self._device) or copy:
            raise BufferError("this array is lent on its own device only, without a copy")
        return dlpack.lend(self._pointer, self.shape, self.dtype, self._device, self)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device

    def to_host(self) -> np.ndarray:
        """A copy in host memory."""
        return self._read()


class Allocation:
    """Bytes on a GPU through the CUDA driver, given back with this object. Raises OutOfMemory where the device has too few."""

    def __init__(self, driver: Any, gpu: Any, size: int) -> None:
        self._driver, self._gpu, self.pointer = driver, gpu, 0
        self._cuda = call(driver.cuDevicePrimaryCtxRetain, gpu)
        call(driver.cuCtxSetCurrent, self._cuda)
        self.pointer = int(call(driver.cuMemAlloc, size))

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
        """Its first bytes as an array, which keeps all of them."""

        def read() -> np.ndarray:
            host = np.empty(shape, dtype)
            call(self._driver.cuCtxSetCurrent, self._cuda)
            call(self._driver.cuMemcpyDtoH, host.ctypes.data, self.pointer, math.prod(shape) * dtype.itemsize)
            return host

        return DeviceArray(self.pointer, shape, dtype, read)

    def __del__(self) -> None:
        if not hasattr(self, "_cuda"):
            return  # there is no such GPU
        self._driver.cuCtxSetCurrent(self._cuda)
        if self.pointer:
            self._driver.cuMemFree(self.pointer)
        self._driver.cuDevicePrimaryCtxRelease(self._gpu)
