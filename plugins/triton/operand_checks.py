"""Checks of shapes and memory that the launchers of several kernels share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def check_shapes(operator: str, tensors: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a tensor of another shape. An absent tensor, None, has every shape.

    Args:
        operator: Name of the operator, for the message.
        tensors: The tensors by name.
        shapes: Name to shape, with at least the names of `tensors`.

    Raises:
        ValueError: A tensor has another shape.
    """
    for name, t in tensors.items():
        if t is not None and tuple(t.shape) != shapes[name]:
            raise ValueError(f"{operator}: {name} is {list(t.shape)}, not {list(shapes[name])}")


def check_contiguous(operator: str, tensors: Mapping[str, Any]) -> None:
    """Refuse a tensor with gaps or exchanged axes in memory.

    Raises:
        ValueError: A tensor is not contiguous.
    """
    for name, t in tensors.items():
        if t is not None and not t.is_contiguous():
            raise ValueError(f"{operator}: {name} must be contiguous")
