"""Views of arrays of other libraries, in host memory or on a GPU, without a copy.

NumPy, PyTorch, CuPy, PyCUDA, JAX and Numba describe their memory by DLPack or by `__cuda_array_interface__`. DLPack is tried
first, because it makes the producer's stream wait. The `__cuda_array_interface__` of PyTorch names no stream.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stylert.core.errors import InputError, StylertError, shown_line
from stylert.runtime.cuda.dlpack import CPU, CUDA, CUDA_HOST, CUDA_MANAGED, from_capsule
from stylert.runtime.cuda.driver import gpu_of

#: The legacy default stream, by the numbering of both protocols
LEGACY_STREAM = 1


@dataclass(frozen=True)
class DeviceView:
    """A C-contiguous array on a GPU, and the object that owns its memory.

    Attributes:
        pointer: The address of the first element.
        shape: The size of every axis.
        dtype: The type of the elements.
        writable: Whether it may be written.
        stream: The CUDA stream that a reader must wait for; None if there is nothing to wait for.
        owner: The object that keeps the memory alive.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    writable: bool
    stream: int | None
    owner: Any

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        """The size in bytes of one entry of the first axis."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def rows(self, first: int, count: int) -> DeviceView:
        """The view of `count` entries of the first axis, beginning at `first`."""
        return replace(self, pointer=self.pointer + first * self.row_bytes, shape=(count, *self.shape[1:]))


def host_view(value: Any) -> np.ndarray | None:
    """View an array in host memory as a NumPy array, without a copy.

    Returns:
        The NumPy array; None if `value` is not an array in host memory, or does not support DLPack.

    Raises:
        InputError: The other library does not export this array.
    """
    if isinstance(value, np.ndarray):
        return value
    with _refusals():
        return np.from_dlpack(value) if _dlpack_device_type(value) in (CPU, CUDA_HOST) else None


def device_view(value: Any) -> DeviceView | None:
    """View an array on a GPU, without a copy.

    Returns:
        The view; None if `value` is not an array on a GPU.

    Raises:
        InputError: The array is not C-contiguous, has a mask or is on another GPU than the first, or the other library does
            not export it.
    """
    with _refusals():
        kind = _dlpack_device_type(value)
        if kind in (CUDA, CUDA_MANAGED):
            if kind == CUDA:
                _check_gpu(int(value.__dlpack_device__()[1]))
            return _view_by_dlpack(value)
        interface = getattr(value, "__cuda_array_interface__", None)
        return None if interface is None else _view_by_interface(interface, value)


def _dlpack_device_type(value: Any) -> int | None:
    """DLPack's number for the kind of memory of an array; None if `value` does not support DLPack."""
    if not hasattr(value, "__dlpack__") or not hasattr(value, "__dlpack_device__"):
        return None
    return int(value.__dlpack_device__()[0])


def _view_by_dlpack(value: Any) -> DeviceView:
    array = from_capsule(value.__dlpack__(stream=LEGACY_STREAM))
    array.release()  # the view holds `value`, which keeps the memory alive
    return DeviceView(array.pointer, array.shape, array.dtype, writable=True, stream=LEGACY_STREAM, owner=value)


def _view_by_interface(interface: dict[str, Any], value: Any) -> DeviceView:
    shape, dtype = tuple(map(int, interface["shape"])), np.dtype(interface["typestr"])
    strides = interface.get("strides")
    contiguous = tuple(math.prod(shape[axis + 1 :]) * dtype.itemsize for axis in range(len(shape)))
    if strides is not None and tuple(strides) != contiguous and math.prod(shape) > 0:
        raise InputError("this array is not C-contiguous; pass a contiguous copy")
    if interface.get("mask") is not None:
        raise InputError("arrays with a mask are not taken")
    pointer, read_only = interface["data"]
    if pointer:
        _check_gpu(gpu_of(int(pointer)))
    stream = interface.get("stream", LEGACY_STREAM)
    return DeviceView(int(pointer or 0), shape, dtype, writable=not read_only, stream=stream, owner=value)


def _check_gpu(index: int | None) -> None:
    """Raise InputError for memory of another GPU than the first, on which all sessions run."""
    if index not in (None, 0):
        raise InputError(
            f"this array is on GPU {index}, and images are made on GPU 0; CUDA_VISIBLE_DEVICES={index} makes it the first"
        )


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what another library's array raises, or a description of its memory that is none, into one line."""
    try:
        yield
    except (StylertError, MemoryError):
        raise
    except Exception as e:  # the object may be of any class
        raise InputError(f"this array cannot be taken: {shown_line(str(e)) or type(e).__name__}") from None
