"""Inert records of the objects in a checkpoint: tensors, modules and other objects, with no code behind them.

A `StoredTensor` is a window on the bytes of the file, with a shape that was checked against them. It becomes an array only
when a network asks for it, so no memory is allocated because a file declares a large shape.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stylert.models.importers.budget import Budget
from stylert.models.importers.errors import FormatError, printable

#: Bytes per element of torch's storages.
STORAGE_BYTES = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
}
#: The storages of floating values, as NumPy reads them. NumPy has no bfloat16; it is the upper half of a float32.
FLOAT_STORAGES = {"DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "BFloat16Storage": "<u2"}
#: The storages of whole numbers, likewise.
INTEGER_STORAGES = {
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
}
#: NumPy's type codes and the torch storage of the same elements.
NUMPY_STORAGES = {
    "f8": "DoubleStorage",
    "f4": "FloatStorage",
    "f2": "HalfStorage",
    "i8": "LongStorage",
    "i4": "IntStorage",
    "i2": "ShortStorage",
    "i1": "CharStorage",
    "u1": "ByteStorage",
    "b1": "BoolStorage",
}
MAX_DIMENSIONS = 8
#: Upper bound of a length or a stride, in elements.
MAX_LENGTH = 2**48
#: Most parameters, buffers or submodules of one module.
MAX_PARTS = 1024
EMPTY = memoryview(b"")


@dataclass
class Storage:
    """A flat run of elements in the file, as torch stores them.

    Attributes:
        kind: A key of `STORAGE_BYTES`.
        numel: Number of elements.
        data: Their bytes. In the legacy container they come last in the file, so they are set later.
    """

    kind: str
    numel: int
    data: memoryview = EMPTY


@dataclass(frozen=True)
class StoredTensor:
    """A strided view of a storage. Offset, shape and strides count elements, and are checked to lie inside the storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.strides):
            raise FormatError("it holds a tensor whose shape and strides do not fit together")
        numel = math.prod(self.shape)
        last = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        if numel and (numel > self.storage.numel or last >= self.storage.numel):
            shape = printable_shape(self.shape)
            raise FormatError(f"it declares a tensor of {shape} over a storage of {self.storage.numel} elements")

    def array(self, budget: Budget) -> np.ndarray:
        """A float32 copy.

        Raises:
            FormatError: The elements are not floating values, or the budget is spent.
        """
        kind = self.storage.kind
        if kind not in FLOAT_STORAGES:
            raise FormatError(f"holds {kind.removesuffix('Storage').lower()} values where weights must be floats")
        budget.reserve(4 * math.prod(self.shape))
        window = self._window(FLOAT_STORAGES[kind])
        if kind == "BFloat16Storage":
            return (window.astype(np.uint32) << 16).view(np.float32)
        with np.errstate(over="ignore"):
            return window.astype(np.float32, order="C")

    def whole_numbers(self, budget: Budget) -> np.ndarray:
        """An int64 copy, such as the counters of a batch normalisation.

        Raises:
            FormatError: The elements are not whole numbers, or the budget is spent.
        """
        kind = self.storage.kind
        if kind not in INTEGER_STORAGES:
            raise FormatError(f"holds {kind.removesuffix('Storage').lower()} values")
        budget.reserve(8 * math.prod(self.shape))
        return self._window(INTEGER_STORAGES[kind]).astype(np.int64, order="C")

    def _window(self, dtype: str) -> np.ndarray:
        flat = np.frombuffer(self.storage.data, dtype)
        strides = [stride * flat.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides)


@dataclass
class StoredModule:
    """A `torch.nn.Module` of the official code: the name of its class, and its state. The source in the file is ignored."""

    class_name: str
    state: dict[Any, Any]

    def children(self) -> dict[str, StoredModule]:
        """The submodules by name."""
        return {name: value for name, value in self._part("_modules").items() if isinstance(value, StoredModule)}

    def tensors(self) -> dict[str, StoredTensor]:
        """The module's own parameters and buffers. A frozen layer keeps its weights among the buffers."""
        own = {**self._part("_parameters"), **self._part("_buffers")}
        return {name: value for name, value in own.items() if isinstance(value, StoredTensor)}

    def _part(self, name: str) -> dict[str, Any]:
        part = self.state.get(name)
        if type(part) is not dict or len(part) > MAX_PARTS or not all(isinstance(key, str) for key in part):
            raise FormatError(f"its {printable(self.class_name)} has no readable {name}")
        return part


@dataclass
class StoredObject:
    """Any other object with attributes: a TensorFlow network, or the arguments of a training script.

    `kind` is the name of its class, `state` its attributes.
    """

    kind: str
    state: dict[Any, Any] = field(default_factory=dict)

    def set_state(self, state: object) -> None:
        """Take the attributes."""
        if type(state) is not dict:
            raise FormatError(f"its {self.kind} has a state that is not a dictionary")
        self.state = state


class NumpyType:
    """`numpy.dtype(code)`. Only plain numbers are allowed."""

    def __init__(self, code: str) -> None:
        self.code, self.byte_order = code, "<"

    def set_state(self, state: object) -> None:
        """Take the arguments of `dtype.__setstate__`: version, byte order and others."""
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", ">", "=", "|"):
            raise FormatError("its pickle holds an array of a type that is not a plain number")
        self.byte_order = "<" if state[1] in ("=", "|") else state[1]

    @property
    def storage_kind(self) -> str:
        """The torch storage of the same elements."""
        if self.code not in NUMPY_STORAGES or self.byte_order != "<":
            raise FormatError(f"its pickle holds an array of type {printable(self.byte_order + self.code)}")
        return NUMPY_STORAGES[self.code]


class NumpyArray:
    """A NumPy array. `tensor` is set together with its state."""

    tensor: StoredTensor | None = None

    def set_state(self, state: object) -> None:
        """Take the arguments of `ndarray.__setstate__`: version, shape, type, Fortran order and bytes."""
        match state:
            case (int(), tuple(shape), NumpyType() as dtype, fortran_order, memoryview() as data):
                pass
            case _:
                raise FormatError("its pickle holds an array in an unknown form")
        check_lengths(shape)
        kind = dtype.storage_kind
        numel = math.prod(shape)
        if len(data) != STORAGE_BYTES[kind] * numel:
            raise FormatError(f"it declares an array of {printable_shape(shape)} over {len(data)} bytes")
        innermost_first = shape if fortran_order else shape[::-1]
        strides = tuple(math.prod(innermost_first[:i]) for i in range(len(shape)))
        self.tensor = StoredTensor(Storage(kind, numel, data), 0, shape, strides if fortran_order else strides[::-1])


def check_lengths(values: tuple[Any, ...]) -> None:
    """Raise FormatError unless these are at most `MAX_DIMENSIONS` integers from 0 up to `MAX_LENGTH`."""
    if len(values) > MAX_DIMENSIONS:
        raise FormatError(f"its pickle holds a tensor of {len(values)} dimensions")
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < MAX_LENGTH for n in values):
        raise FormatError("its pickle holds a shape of other values than lengths")


def printable_shape(shape: tuple[Any, ...]) -> str:
    """A shape for a message, such as `512x512x3x3`."""
    return printable("x".join(map(printable, shape)))
