"""Arrays of other libraries on the fake device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from stylert.runtime.cuda import dlpack
from tests.runtime.cuda.fake_driver import FakeDriver


class Foreign:
    """An array of another library on the fake device, with `__cuda_array_interface__` as CuPy and PyCUDA have it.

    `pending` is work that its own stream has yet to do.
    """

    def __init__(self, driver: FakeDriver, array: np.ndarray, pending: Callable[[], object] | None = None) -> None:
        self.array = array
        self.stream = None
        if pending is not None:
            self.stream = driver.cuStreamCreate(0)[1]
            driver.enqueue(self.stream, pending)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        data = (self.array.ctypes.data, not self.array.flags.writeable)
        strides = None if self.array.flags.c_contiguous else self.array.strides
        return {
            "shape": self.array.shape,
            "typestr": self.array.dtype.str,
            "data": data,
            "strides": strides,
            "version": 3,
            "stream": self.stream,
        }


class ForeignByDlpack:
    """An array of another library on the fake device, with DLPack as PyTorch and JAX have it."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.streams: list[object] = []  # that readers gave

    def __dlpack__(self, *, stream: object = None) -> object:
        self.streams.append(stream)
        return dlpack.to_capsule(self.array.ctypes.data, self.array.shape, self.array.dtype, (dlpack.CUDA, 0), self.array)

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, 0
