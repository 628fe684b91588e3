"""Tensors of the KServe v2 protocol: data types, values as JSON lists, and values as raw little-endian bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from stylert.core.errors import InputError, shown

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


def read_values(name: str, datatype: str, shape: Sequence[int], data: object) -> np.ndarray:
    """A tensor from a list of its values, flat or nested.

    Raises:
        InputError: The type is unknown, or the values do not fit it or the shape.
    """
    dtype, size = _type_and_size(name, datatype, shape)
    try:
        values = np.array(data)
    except (ValueError, OverflowError):
        raise InputError(f"input {shown(name)} has lists of different lengths") from None
    kinds = {"b": "b", "f": "iuf"}.get(dtype.kind, "iu")
    if values.size != size or values.dtype.kind not in kinds:
        raise InputError(f"input {shown(name)} takes {size} values of {datatype}, and got {values.size} of {values.dtype}")
    if dtype.kind in "iu" and size and not _fits(values, dtype):
        raise InputError(f"input {shown(name)} has values that {datatype} cannot hold")
    with np.errstate(over="ignore"):
        return values.astype(dtype).reshape(shape)


def to_raw(tensor: np.ndarray, datatype: str) -> bytes:
    """The bytes of a tensor."""
    return np.ascontiguousarray(tensor, DATATYPES[datatype]).tobytes()


def to_values(tensor: np.ndarray) -> msgspec.Raw:
    """The values of a tensor as a flat JSON list."""
    return msgspec.Raw(msgspec.json.encode(tensor.ravel().tolist()))


def _type_and_size(name: str, datatype: str, shape: Sequence[int]) -> tuple[np.dtype[Any], int]:
    if datatype not in DATATYPES:
        raise InputError(f"input {shown(name)} has the type {shown(datatype)}; types are {', '.join(DATATYPES)}")
    if len(shape) > MAX_DIMENSIONS or any(side < 0 for side in shape):
        raise InputError(f"input {shown(name)} has no shape: {shown(list(shape))}")
    return DATATYPES[datatype], math.prod(shape)


def _fits(values: np.ndarray, dtype: np.dtype[Any]) -> bool:
    limits = np.iinfo(dtype)
    return int(values.min()) >= limits.min and int(values.max()) <= limits.max
