"""DLPack for memory that no NumPy array owns: a capsule from an address, and an address from a capsule, without a copy.

NumPy exports and imports its own host arrays only. The structures and capsule names below are those of DLPack 0.x, which
every library reads: https://dmlc.github.io/dlpack/latest/c_api.html
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from stylert.core.errors import InputError

#: DLDeviceType: host memory, GPU memory, pinned host memory, managed memory
CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13
#: DLDataTypeCode to NumPy's letter for the kind of number
KINDS = {0: "i", 1: "u", 2: "f"}

#: Names of a capsule before and after an importer has taken it
UNUSED_NAME, USED_NAME = b"dltensor", b"used_dltensor"


@dataclass(frozen=True)
class ImportedArray:
    """C-contiguous memory of another library.

    Attributes:
        pointer: The address of the first element.
        shape: The size of every axis.
        dtype: The type of the elements.
        device: The device's type, such as `CUDA`, and its number.
        release: Tells the other library that the memory is no longer used. Call it once.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    device: tuple[int, int]
    release: Callable[[], None]


def to_capsule(pointer: int, shape: tuple[int, ...], dtype: np.dtype[Any], device: tuple[int, int], owner: Any) -> Any:
    """Make a DLPack capsule of C-contiguous memory.

    Args:
        pointer: The address of the first element.
        shape: The size of every axis.
        dtype: Integers or floats.
        device: The device's type, such as `CUDA`, and its number.
        owner: The object that keeps the memory alive. The capsule, then its importer, holds a reference to it.
    """
    code = next(code for code, kind in KINDS.items() if kind == dtype.kind)
    extents = (ctypes.c_int64 * len(shape))(*shape)
    managed = _ManagedTensor()
    managed.tensor = _Tensor(pointer, _Device(*device), len(shape), _DataType(code, 8 * dtype.itemsize, 1), extents, None, 0)
    managed.deleter = _delete_export
    address = ctypes.addressof(managed)
    _exports[address] = (managed, extents, owner)
    return _new_capsule(address, UNUSED_NAME, _destroy_capsule)


def from_capsule(capsule: Any) -> ImportedArray:
    """Take the memory of a DLPack capsule. The capsule cannot be taken a second time.

    Raises:
        InputError: It is no capsule, or was taken before, or holds other elements than plain integers and floats, or is not
            C-contiguous.
    """
    if not _has_name(capsule, UNUSED_NAME):
        raise InputError("this is not a DLPack capsule, or it was taken already")
    managed = _ManagedTensor.from_address(_pointer_of(capsule, UNUSED_NAME))
    _rename(capsule, USED_NAME)

    def release() -> None:
        if managed.deleter:
            managed.deleter(ctypes.pointer(managed))

    tensor = managed.tensor
    try:
        dtype = _numpy_dtype(tensor.dtype)
        shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
        if tensor.strides:
            _check_contiguous(shape, tuple(tensor.strides[axis] for axis in range(tensor.ndim)))
    except InputError:
        release()
        raise
    device = (tensor.device.type, tensor.device.id)
    return ImportedArray((tensor.data or 0) + tensor.byte_offset, shape, dtype, device, release)


def _numpy_dtype(dtype: _DataType) -> np.dtype[Any]:
    kind = KINDS.get(dtype.code)
    if kind is None or dtype.lanes != 1 or dtype.bits not in (8, 16, 32, 64):
        raise InputError("DLPack: only plain integers and floats are taken")
    return np.dtype(f"{kind}{dtype.bits // 8}")


def _check_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    """Raise InputError unless `strides`, in elements, are those of a C-contiguous array. Axes of size 1 may have any."""
    if math.prod(shape) == 0:
        return
    for axis, (size, stride) in enumerate(zip(shape, strides, strict=True)):
        if size != 1 and stride != math.prod(shape[axis + 1 :]):
            raise InputError("DLPack: the array is not C-contiguous; pass a contiguous copy")


class _Device(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int32), ("id", ctypes.c_int32)]


class _DataType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _ManagedTensor(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_ManagedTensor))
_ManagedTensor._fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter)]

_api = ctypes.pythonapi
_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, _Destructor)(("PyCapsule_New", _api))
_has_name = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
_pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))
_rename = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_SetName", _api))
# A destructor runs while its capsule is freed, when no new reference to the capsule may be made. It gets the bare address.
_has_name_at = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
_pointer_at = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))

#: Exported memory that is in use, by the address of its structure: the structure, its shape and the memory's owner
_exports: dict[int, tuple[Any, ...]] = {}


@_Deleter
def _delete_export(managed: Any) -> None:
    """Forget an export that its importer no longer uses."""
    _exports.pop(ctypes.addressof(managed.contents), None)


@_Destructor
def _destroy_capsule(capsule: int) -> None:
    """Forget the export of a capsule that nobody took, because no importer will call its deleter."""
    if _has_name_at(capsule, UNUSED_NAME):
        _exports.pop(_pointer_at(capsule, UNUSED_NAME), None)
