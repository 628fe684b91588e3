"""Arrays of other libraries, in host memory or on a GPU, taken as they lie there.

NumPy, PyTorch, CuPy, PyCUDA, JAX and Numba tell of their memory through DLPack or `__cuda_array_interface__`. DLPack comes
first, because its producer makes its own stream wait; the interface of PyTorch, for one, does not name a stream.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stylert.core.errors import InputError
from stylert.runtime.cuda.dlpack import CPU, CUDA, CUDA_HOST, CUDA_MANAGED, borrow

#: The legacy default stream, by the numbering of both protocols.
LEGACY_STREAM = 1


@dataclass(frozen=True)
class OnDevice:
    """A C-contiguous array on a GPU. `stream` is the one whose work must be over before it is read, None for none."""

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    writable: bool
    stream: int | None
    owner: Any  # keeps the memory alive

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def rows(self, first: int, count: int) -> OnDevice:
        return replace(self, pointer=self.pointer + first * self.row_bytes, shape=(count, *self.shape[1:]))


def on_host(value: Any) -> np.ndarray | None:
    """`value` as a NumPy array without a copy where it lies in host memory and tells so; None otherwise."""
    if isinstance(value, np.ndarray):
        return value
    if _dlpack_device(value) not in (CPU, CUDA_HOST):
        return None
    try:
        return np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as e:
        raise InputError(f"this array cannot be taken: {' '.join(str(e).split())[:200]}") from None


def on_device(value: Any) -> OnDevice | None:
    """`value` where it lies on a GPU; None for anything else.

    Raises InputError where it is not C-contiguous, has a mask, or its library does not give it away.
    """
    try:
        if _dlpack_device(value) in (CUDA, CUDA_MANAGED):
            return _from_dlpack(value)
        interface = getattr(value, "__cuda_array_interface__", None)
    except (BufferError, RuntimeError, TypeError) as e:
        raise InputError(f"this array cannot be taken: {' '.join(str(e).split())[:200]}") from None
    return None if interface is None else _from_interface(interface, value)


def _dlpack_device(value: Any) -> int | None:
    tell = getattr(value, "__dlpack_device__", None)
    return None if tell is None or not hasattr(value, "__dlpack__") else int(tell()[0])


def _from_dlpack(value: Any) -> OnDevice:
    held = borrow(value.__dlpack__(stream=LEGACY_STREAM))
    held.give_back()  # `value` itself is what keeps the memory
    return OnDevice(held.pointer, held.shape, held.dtype, True, LEGACY_STREAM, value)


def _from_interface(interface: dict[str, Any], value: Any) -> OnDevice:
    shape, dtype = tuple(map(int, interface["shape"])), np.dtype(interface["typestr"])
    strides = interface.get("strides")
    wanted = tuple(math.prod(shape[i + 1 :]) * dtype.itemsize for i in range(len(shape)))
    if strides is not None and tuple(strides) != wanted and math.prod(shape) > 0:
        raise InputError("this array is not C-contiguous; pass a contiguous copy")
    if interface.get("mask") is not None:
        raise InputError("arrays with a mask are not taken")
    pointer, read_only = interface["data"]
    stream = interface.get("stream", LEGACY_STREAM)
    return OnDevice(int(pointer or 0), shape, dtype, not read_only, stream, value)
