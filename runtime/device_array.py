"""Images that stay on the GPU, for CuPy, PyTorch, PyCUDA and others to take without a copy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from stylert.runtime import dlpack
from stylert.runtime.cuda_driver import call


class DeviceArray:
    """Memory on the first GPU: a C-contiguous array of `shape` and `dtype`, told by DLPack and `__cuda_array_interface__`.

    The memory is this object's own and is given back with it, also after the session has closed. What wrote it is over, so
    no stream needs to wait for it. `spare` rows more are allocated behind the last, for padded batches.

    Raises OutOfMemory where the device has too little.
    """

    def __init__(self, driver: Any, gpu: Any, shape: tuple[int, ...], dtype: np.dtype[Any], spare: int = 0) -> None:
        self._driver, self._gpu, self.shape, self.dtype = driver, gpu, shape, dtype
        self._pointer = 0
        self._cuda = call(driver.cuDevicePrimaryCtxRetain, gpu)
        call(driver.cuCtxSetCurrent, self._cuda)
        rows = shape[0] + spare
        self._pointer = int(call(driver.cuMemAlloc, rows * math.prod(shape[1:]) * dtype.itemsize))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (self._pointer, False), "version": 3, "stream": None}

    def __dlpack__(self, *, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: Any = None) -> Any:
        """A capsule of DLPack 0.x; the borrower keeps this object alive. Raises BufferError for another device, or a copy."""
        if dl_device not in (None, self.__dlpack_device__()) or copy:
            raise BufferError("this array is lent on its own device only, without a copy")
        return dlpack.lend(self._pointer, self.shape, self.dtype, self.__dlpack_device__(), self)

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, 0

    def to_host(self) -> np.ndarray:
        """A copy in host memory."""
        host = np.empty(self.shape, self.dtype)
        call(self._driver.cuCtxSetCurrent, self._cuda)
        call(self._driver.cuMemcpyDtoH, host.ctypes.data, self._pointer, host.nbytes)
        return host

    def __del__(self) -> None:
        if not hasattr(self, "_cuda"):
            return  # there is no such GPU
        self._driver.cuCtxSetCurrent(self._cuda)
        if self._pointer:
            self._driver.cuMemFree(self._pointer)
        self._driver.cuDevicePrimaryCtxRelease(self._gpu)
