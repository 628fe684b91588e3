"""DLPack by hand: memory of this process or of a GPU handed to another library, or taken from one, without a copy.

NumPy speaks it for its own arrays only. Structures and capsule names are those of DLPack 0.x, which every library reads:
https://dmlc.github.io/dlpack/latest/c_api.html
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from stylert.core.errors import InputError

#: DLDeviceType
CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13
#: DLDataTypeCode to NumPy's kind
KINDS = {0: "i", 1: "u", 2: "f"}


class _Device(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int32), ("id", ctypes.c_int32)]


class _Type(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Managed(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter)]
_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, _Destructor)(("PyCapsule_New", ctypes.pythonapi))
_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_IsValid", ctypes.pythonapi))
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", ctypes.pythonapi))
# A destructor runs while the capsule dies, when no Python reference to it may be made: it gets the bare address.
_valid_at = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", ctypes.pythonapi))
_pointer_at = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", ctypes.pythonapi))
_rename = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_SetName", ctypes.pythonapi))

FRESH, USED = b"dltensor", b"used_dltensor"

#: What is lent out, by the address of its structure: the structure, its arrays and the owner of the memory.
_lent: dict[int, tuple[Any, ...]] = {}


@dataclass(frozen=True)
class Borrowed:
    """Memory of another library: `pointer` to C-contiguous `shape` of `dtype`. `give_back` is called once, when done."""

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    device: tuple[int, int]
    give_back: Callable[[], None]


def lend(pointer: int, shape: tuple[int, ...], dtype: np.dtype[Any], device: tuple[int, int], owner: Any) -> Any:
    """A DLPack capsule around C-contiguous memory; `owner` is kept alive until the borrower lets go of it."""
    code = next(code for code, kind in KINDS.items() if kind == dtype.kind)
    extents = (ctypes.c_int64 * len(shape))(*shape)
    managed = _Managed()
    managed.tensor = _Tensor(pointer, _Device(*device), len(shape), _Type(code, 8 * dtype.itemsize, 1), extents, None, 0)
    managed.deleter = _forget
    address = ctypes.addressof(managed)
    _lent[address] = (managed, extents, owner)
    return _new(address, FRESH, _abandon)


def borrow(capsule: Any) -> Borrowed:
    """The memory of a fresh capsule, which is used up by it.

    Raises InputError for what is no fresh capsule, or not C-contiguous numbers.
    """
    if not _valid(capsule, FRESH):
        raise InputError("this is not a DLPack capsule, or it was taken already")
    address = _pointer(capsule, FRESH)
    managed = _Managed.from_address(address)
    tensor = managed.tensor
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    _rename(capsule, USED)

    def give_back() -> None:
        if managed.deleter:
            managed.deleter(ctypes.pointer(managed))

    kind = KINDS.get(tensor.dtype.code)
    if kind is None or tensor.dtype.lanes != 1 or tensor.dtype.bits not in (8, 16, 32, 64):
        give_back()
        raise InputError("DLPack: only plain integers and floats are taken")
    if tensor.strides and not _contiguous(shape, tuple(tensor.strides[i] for i in range(tensor.ndim))):
        give_back()
        raise InputError("DLPack: the array is not C-contiguous; pass a contiguous copy")
    dtype = np.dtype(f"{kind}{tensor.dtype.bits // 8}")
    return Borrowed((tensor.data or 0) + tensor.byte_offset, shape, dtype, (tensor.device.type, tensor.device.id), give_back)


def _contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    if math.prod(shape) == 0:
        return True
    wanted = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    return all(n == 1 or have == want for n, have, want in zip(shape, strides, wanted, strict=True))


@_Deleter
def _forget(managed: Any) -> None:
    _lent.pop(ctypes.addressof(managed.contents), None)


@_Destructor
def _abandon(capsule: int) -> None:
    """A capsule that nobody took still owns what it lends."""
    if _valid_at(capsule, FRESH):
        _lent.pop(_pointer_at(capsule, FRESH), None)
