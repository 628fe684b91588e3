"""Checks of a network's tensors before they are written: a file that no reader takes would replace a good one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from stylert.core.errors import CheckpointError, shown

Shapes = Mapping[str, tuple[int, ...]]


def checked_tensors(
    arrays: Any, shapes: Shapes, refusal: str, dtype: type[np.floating[Any]] = np.float32
) -> dict[str, np.ndarray]:
    """The tensors of these names and shapes, contiguous and of type `dtype`. Others are left out.

    Args:
        arrays: Name to real numbers, as NumPy takes them.
        shapes: Every tensor of the network.
        refusal: Begin of the messages, such as "checkpoint a.safetensors is not written".
        dtype: Type of the result.

    Raises:
        CheckpointError: A tensor is missing, is no array of real numbers, has another shape, or is not finite in `dtype`.
    """
    if not isinstance(arrays, Mapping):
        raise CheckpointError(f"{refusal}: {shown(arrays)} is no dictionary of tensors")
    tensors = {}
    for name, shape in shapes.items():
        if name not in arrays:
            raise CheckpointError(f"{refusal}: {name} is missing")
        try:
            given = np.asarray(arrays[name])
        except (TypeError, ValueError, RuntimeError):  # a ragged list, or a tensor that asks for a gradient
            given = np.array(None)
        if given.dtype.kind not in "fiu":
            raise CheckpointError(f"{refusal}: {name} is no array of real numbers: {shown(arrays[name])}")
        if given.shape != shape:
            raise CheckpointError(f"{refusal}: {name} is {list(given.shape)}, its configuration says {list(shape)}")
        with np.errstate(over="ignore"):
            tensors[name] = np.array(given, dtype, order="C")
        if not np.isfinite(tensors[name]).all():
            raise CheckpointError(f"{refusal}: {name} holds values beyond {tensors[name].dtype}")
    return tensors
