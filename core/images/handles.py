"""Handles of a drag: points of an image, each with the point that it is to move to.

Coordinates are in pixels of the network's image. x goes to the right and y down, and (0, 0) is the middle of the first pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from stylert.core.errors import InputError, shown
from stylert.core.numerals import read_number

#: Handles of one drag, at most.
MAX_HANDLES = 16


class Handle(NamedTuple):
    """A point and its target.

    Attributes:
        x: The point, to the right.
        y: The point, down.
        target_x: Its target, to the right.
        target_y: Its target, down.
    """

    x: float
    y: float
    target_x: float
    target_y: float


def parse_handle(text: str) -> Handle:
    """Read a handle such as `20,30:26,30`. Raises InputError for other text."""
    try:
        (x, y), (target_x, target_y) = ([read_number(part) for part in point.split(",")] for point in text.split(":"))
    except ValueError:
        raise InputError(f"a handle is a point and its target, such as 20,30:26,30, not {shown(text)}") from None
    return Handle(x, y, target_x, target_y)


def check_handles(handles: Sequence[Handle], resolution: int) -> None:
    """Check the handles of one drag.

    Args:
        handles: The handles.
        resolution: Side of the image.

    Raises:
        InputError: There are none or too many, a point or target lies outside of the image, a handle is at its target already, or
            two handles begin at one point.
    """
    if not 1 <= len(handles) <= MAX_HANDLES:
        raise InputError(f"a drag has 1 to {MAX_HANDLES} handles, not {len(handles)}")
    for handle in handles:
        if not all(math.isfinite(value) and 0 <= value <= resolution - 1 for value in handle):
            raise InputError(
                f"handle {shown_handle(handle)} is not within the image, whose coordinates go from 0 to {resolution - 1}"
            )
        if handle[:2] == handle[2:]:
            raise InputError(f"handle {shown_handle(handle)} is at its target already")
    for i, handle in enumerate(handles):
        if any(handle[:2] == other[:2] for other in handles[:i]):
            raise InputError(f"two handles begin at {handle.x:g},{handle.y:g}")


def shown_handle(handle: Handle) -> str:
    """The text of a handle, as `parse_handle` reads it."""
    return f"{handle.x:g},{handle.y:g}:{handle.target_x:g},{handle.target_y:g}"
