"""Tensors of the KServe v2 protocol: data types, values as JSON lists, and values as raw little-endian bytes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from stylert.core.errors import InputError, shown, shown_line

#: The data types of the protocol that have a fixed size.
DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
MAX_DIMENSIONS = 8
#: Product of the sides of a shape, where a side of 0 counts as 1. NumPy itself has a limit, and raises beyond it.
MAX_VALUES = 2**31
#: A list whose first element is a list.
NESTED = re.compile(rb"\s*\[\s*\[")


@dataclass(frozen=True)
class TensorFacts:
    """One input or output of a model, as its metadata names it.

    Attributes:
        name: Its name.
        datatype: A key of `DATATYPES`.
        shape: Its shape; -1 is the batch.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


def read_raw(name: str, datatype: str, shape: Sequence[int], data: bytes | memoryview) -> np.ndarray:
    """A tensor from its bytes.

    Raises:
        InputError: The type is unknown, the shape is not one, or the number of bytes is another.
    """
    dtype, size = _type_and_size(name, datatype, shape)
    if len(data) != size * dtype.itemsize:
        raise InputError(f"input {shown(name)} of shape {list(shape)} has {size * dtype.itemsize} bytes, not {len(data)}")
    return np.frombuffer(data, dtype).reshape(shape)


def read_json(name: str, datatype: str, shape: Sequence[int], data: bytes) -> np.ndarray:
    """A tensor from a JSON list of its values, flat or nested as its shape.

    The list is read as the numbers or truth values that the data type has, so nothing is built from any other text.

    Raises:
        InputError: The type is unknown, the shape is not one, or the values do not fit it.
    """
    dtype, size = _type_and_size(name, datatype, shape)
    is_nested = NESTED.match(data) is not None
    try:
        values = _decoder(dtype.kind, len(shape) if is_nested else 1).decode(data)
    except (ValueError, OverflowError, RecursionError) as e:
        raise InputError(f"input {shown(name)} takes {size} values of {datatype}: {shown_line(str(e))}") from None
    if is_nested:
        if len(values) != shape[0]:
            raise _wrong_shape(name, shape)
        for side in shape[1:]:
            if any(len(inner) != side for inner in values):
                raise _wrong_shape(name, shape)
            values = list(chain.from_iterable(values))
    return read_values(name, datatype, shape, values)


def read_values(name: str, datatype: str, shape: Sequence[int], values: Sequence[Any]) -> np.ndarray:
    """A tensor from its values in one sequence, which are all numbers or truth values as the data type is.

    Raises:
        InputError: The type is unknown, the shape is not one, or the values do not fit them.
    """
    dtype, size = _type_and_size(name, datatype, shape)
    if len(values) != size:
        raise InputError(f"input {shown(name)} takes {size} values of {datatype}, and got {len(values)}")
    if dtype.kind in "iu" and size and not np.iinfo(dtype).min <= min(values) <= max(values) <= np.iinfo(dtype).max:
        raise InputError(f"input {shown(name)} has values that {datatype} cannot hold")
    with np.errstate(over="ignore"):
        return np.array(values, np.float64 if dtype.kind == "f" else dtype).astype(dtype).reshape(shape)


def _type_and_size(name: str, datatype: str, shape: Sequence[int]) -> tuple[np.dtype[Any], int]:
    if datatype not in DATATYPES:
        raise InputError(f"input {shown(name)} has the type {shown(datatype)}; types are {', '.join(DATATYPES)}")
    is_shape = len(shape) <= MAX_DIMENSIONS and all(side >= 0 for side in shape)
    if not is_shape or math.prod(max(side, 1) for side in shape) > MAX_VALUES:
        raise InputError(f"input {shown(name)} has no shape: {shown(list(shape))}")
    return DATATYPES[datatype], math.prod(shape)


def _wrong_shape(name: str, shape: Sequence[int]) -> InputError:
    return InputError(f"input {shown(name)} has lists that do not form the shape {list(shape)}")


@cache
def _decoder(kind: str, depth: int) -> msgspec.json.Decoder[Any]:
    """Reads lists of `depth` levels. Its arguments are a kind of NumPy and a depth of up to `MAX_DIMENSIONS`."""
    element: Any = {"b": bool, "f": float}.get(kind, int)
    for _ in range(depth):
        element = list[element]
    return msgspec.json.Decoder(element)
