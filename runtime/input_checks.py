"""Checks the values that callers give to a `Generator` and brings them into the form that sessions take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stylert.core.errors import InputError, shown, shown_line
from stylert.runtime.batching import BatchChunk
from stylert.runtime.cuda.arrays import DeviceView, device_view, host_view
from stylert.runtime.session import Inputs

#: A shape in which a name, such as "N", stands for any size
NamedShape = tuple[int | str, ...]

MAX_FLOAT = float(np.finfo(np.float32).max)
#: The largest value of an array. Networks square their inputs, and images of values that overflow are black.
MAX_VALUE = 1e12


def whole_number(value: Any, name: str, least: int, most: int | None = None) -> int:
    """A whole number in a range, of Python or NumPy.

    Raises:
        InputError: It is something else.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, np.integer))
        or value < least
        or (most is not None and value > most)
    ):
        raise InputError(f"{name} is a whole number from {least}{'' if most is None else f' to {most}'}, not {shown(value)}")
    return int(value)


def finite_number(value: Any, name: str) -> float:
    """A number that float32 can hold.

    Raises:
        InputError: It is something else.
    """
    is_number = isinstance(value, (int, float, np.floating, np.integer)) and not isinstance(value, bool)
    try:
        number = float(value) if is_number else float("nan")  # first, because float16 cannot be compared with the limit
    except OverflowError:  # a whole number
        number = float("inf")
    if not abs(number) <= MAX_FLOAT:  # false for NaN
        raise InputError(f"{name} must be a finite number, not {shown(value)}")
    return number


def yes_or_no(value: Any, name: str) -> bool:
    """True or False, of Python or NumPy.

    Raises:
        InputError: It is something else.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise InputError(f"{name} is True or False, not {shown(value)}")
    return bool(value)


def float_input(value: Any, shape: NamedShape, name: str, gpu: bool, backend: str) -> np.ndarray | DeviceView:
    """A float input in host memory as `host_floats`, or as a view if it lies on the GPU.

    The values of an array on the GPU are not checked.

    Args:
        value: An array of any library.
        shape: The shape that it must have.
        name: The input's name, for errors.
        gpu: Whether the backend computes on a GPU.
        backend: The backend's name, for errors.

    Raises:
        InputError: The array has another shape or type, or the backend cannot read it.
    """
    view = device_view(value)
    if view is None:
        return host_floats(value, shape, name)
    if not gpu:
        raise InputError(f"{name} is on a GPU, and {backend} computes in host memory: copy it there first")
    if view.dtype != np.float32:
        raise InputError(f"{name} must be float32 on the GPU, not {view.dtype}")
    _check_shape(view.shape, shape, name)
    return view


def host_floats(value: Any, shape: NamedShape, name: str) -> np.ndarray:
    """An array in host memory as contiguous float32.

    Raises:
        InputError: It is not an array of floats, has another shape, or holds NaN, infinity, or a value beyond `MAX_VALUE`.
    """
    array = host_view(value)
    if array is None or array.dtype not in (np.float32, np.float64, np.float16):
        kind = type(value).__name__ if array is None else f"an array of {array.dtype}"
        raise InputError(f"{name} must be a float array, not {shown_line(kind, 60)}")
    _check_shape(array.shape, shape, name)
    try:
        with np.errstate(over="ignore"):  # of float64: it becomes infinite, which is found below
            floats = np.ascontiguousarray(array, dtype=np.float32)
    except MemoryError:  # a view may repeat its values without end
        raise InputError(f"{name} of shape {list(array.shape)} does not fit into memory: give fewer at a time") from None
    if not np.isfinite(floats).all():
        raise InputError(f"{name} holds values that are not finite in float32")
    if max(floats.max(), -floats.min()) > MAX_VALUE:
        raise InputError(f"{name} holds values beyond {MAX_VALUE:g}, with which a network overflows")
    return floats


def one_hot(labels: Sequence[int] | np.ndarray | None, n: int, c_dim: int) -> np.ndarray:
    """Label vectors `[n, c_dim]` of class indices `[n]`. Vectors are returned as they are.

    Raises:
        InputError: There are no labels, or they have another shape, type or range.
    """
    if labels is None:
        raise InputError(f"this network takes labels: one class from 0 to {c_dim - 1} per image, or vectors of {c_dim} numbers")
    try:
        array = np.asarray(labels)
    except MemoryError:
        raise
    except Exception as e:  # lists of different lengths, or another library's array that refuses
        raise InputError(f"labels cannot be read as an array: {shown_line(str(e))}") from None
    if array.ndim == 2:
        if array.dtype.kind not in "fiub":
            raise InputError(f"label vectors are numbers, not an array of {array.dtype}")
        with np.errstate(over="ignore"):
            return host_floats(array.astype(np.float32), (n, c_dim), "labels")
    if array.shape != (n,) or array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= c_dim:
        classes = "1 class" if n == 1 else f"{n} classes"
        raise InputError(f"labels must be {classes} from 0 to {c_dim - 1}, not {shown(labels)}")
    vectors = np.zeros((n, c_dim), np.float32)
    vectors[np.arange(n), array] = 1
    return vectors


def chunk_inputs(inputs: Inputs, chunk: BatchChunk) -> dict[str, np.ndarray | DeviceView]:
    """The rows of one chunk. Padding repeats the last row.

    Raises:
        InputError: An input on the GPU would need padding.
    """
    padding = chunk.batch - chunk.images
    rows: dict[str, np.ndarray | DeviceView] = {}
    for name, value in inputs.items():
        if isinstance(value, DeviceView):
            if padding:
                raise InputError(f"this engine runs {chunk.images} images as {chunk.batch}: pass {name} with so many rows")
            rows[name] = value.rows(chunk.first, chunk.images)
        else:
            own_rows = value[chunk.first : chunk.first + chunk.images]
            rows[name] = np.concatenate([own_rows, np.repeat(own_rows[-1:], padding, 0)]) if padding else own_rows
    return rows


def _check_shape(actual: tuple[int, ...], shape: NamedShape, name: str) -> None:
    fits = len(actual) == len(shape) and all(isinstance(s, str) or a == s for a, s in zip(actual, shape, strict=True))
    if not fits or actual[0] == 0:
        raise InputError(f"{name} must have shape [{', '.join(map(str, shape))}] with N at least 1, not {list(actual)}")
