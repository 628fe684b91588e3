"""`DeviceArray`: images for other libraries without a copy, by DLPack or `__cuda_array_interface__`.

The images are on the GPU, or in host memory for sessions of a CPU. `Allocation` owns GPU memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from stylert.runtime.cuda import dlpack
from stylert.runtime.cuda.driver import call

#: The first GPU, and host memory, in the terms of DLPack
FIRST_GPU, HOST = (dlpack.CUDA, 0), (dlpack.CPU, 0)


class DeviceArray:
    """A C-contiguous array on the first GPU that supports DLPack and `__cuda_array_interface__`.

    Its content is complete, so a reader needs to wait for no stream. The memory lives as long as this object or an importer
    of it, also after the session has closed. Sessions that compute on the CPU make such arrays in host memory.

    Args:
        pointer: The address of the first element.
        shape: The size of every axis.
        dtype: The type of the elements.
        copy_to_host: Returns a copy in host memory. Its references must keep the memory alive.
        device: `FIRST_GPU` or `HOST`.
    """

    def __init__(
        self,
        pointer: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        copy_to_host: Callable[[], np.ndarray],
        device: tuple[int, int] = FIRST_GPU,
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self._pointer, self._copy_to_host, self._device = pointer, copy_to_host, device

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self._device != FIRST_GPU:
            raise AttributeError("this array lies in host memory")
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (self._pointer, False), "version": 3, "stream": None}

    def __dlpack__(self, *, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: Any = None) -> Any:
        """A capsule of DLPack 0.x. Raises BufferError if a copy or another device is asked for."""
        if dl_device not in (None, self._device) or copy:
            raise BufferError("this array can be taken only on its own device and without a copy")
        return dlpack.to_capsule(self._pointer, self.shape, self.dtype, self._device, self)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device

    def to_host(self) -> np.ndarray:
        """A copy in host memory."""
        return self._copy_to_host()


class Allocation:
    """Memory on a GPU from the CUDA driver. It is freed with this object.

    Args:
        driver: The driver's functions.
        gpu: The driver's handle of the GPU.
        size: The size in bytes.

    Raises:
        OutOfMemory: The GPU has too little memory.
    """

    def __init__(self, driver: Any, gpu: Any, size: int) -> None:
        self._driver, self._gpu, self.pointer = driver, gpu, 0
        self._context = call(driver.cuDevicePrimaryCtxRetain, gpu)
        call(driver.cuCtxSetCurrent, self._context)
        self.pointer = int(call(driver.cuMemAlloc, size))

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
        """The array at the beginning of this memory. It keeps the whole allocation alive."""

        def copy_to_host() -> np.ndarray:
            host = np.empty(shape, dtype)
            call(self._driver.cuCtxSetCurrent, self._context)
            call(self._driver.cuMemcpyDtoH, host.ctypes.data, self.pointer, math.prod(shape) * dtype.itemsize)
            return host

        return DeviceArray(self.pointer, shape, dtype, copy_to_host)

    def __del__(self) -> None:
        if not hasattr(self, "_context"):
            return  # the constructor failed: there is no such GPU
        self._driver.cuCtxSetCurrent(self._context)
        if self.pointer:
            self._driver.cuMemFree(self.pointer)
        self._driver.cuDevicePrimaryCtxRelease(self._gpu)
