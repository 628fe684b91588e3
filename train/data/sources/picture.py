"""One picture of a source, and the limits that keep a hostile file from filling memory or disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from stylert.core.errors import DataError

#: The largest encoded picture that is read, and the largest that is decoded.
MAX_BYTES = 256 * 2**20
MAX_PIXELS = 2**28
#: The most pictures of one source.
MAX_PICTURES = 50_000_000

Label = int | list[float]


@dataclass(frozen=True)
class Picture:
    """`read` gives the bytes of an image file, or uint8 `[H, W]` or `[H, W, 3]`; it raises what its library raises."""

    name: str
    read: Callable[[], bytes | np.ndarray]
    label: Label | None = None


@dataclass(frozen=True)
class Source:
    """Pictures in a fixed order, and how many there are."""

    count: int
    pictures: Callable[[], Iterator[Picture]]


def limited(name: str, size: int) -> int:
    """`size` bytes of one picture, unless they are too many. Raises DataError."""
    if size > MAX_BYTES:
        raise DataError(f"{name!r} has {size / 2**20:.0f} MiB; a picture may have {MAX_BYTES // 2**20}")
    return size


def check_count(place: object, count: int) -> int:
    """Raises DataError when there is none, or too many."""
    if count == 0:
        raise DataError(f"{place} holds no pictures")
    if count > MAX_PICTURES:
        raise DataError(f"{place} declares {count} pictures; at most {MAX_PICTURES} are read")
    return count


def one_line(error: Exception) -> str:
    """What an error of a library says, short, as part of one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
