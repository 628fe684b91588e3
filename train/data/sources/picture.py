"""Pictures of a source, and limits that keep a hostile file from filling memory or disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from stylert.core.errors import DataError

#: Pictures of one source, at most.
MAX_PICTURES = 50_000_000

#: A class index or a vector.
Label = int | list[float]


@dataclass(frozen=True)
class Picture:
    """One picture of a source.

    Attributes:
        name: Its name in messages.
        read: Returns the bytes of an image file, or uint8 `[H, W]` or `[H, W, 3]`. Raises PictureError.
        label: Its label, or None.
    """

    name: str
    read: Callable[[], bytes | np.ndarray]
    label: Label | None = None


@dataclass(frozen=True)
class Source:
    """A stream of pictures.

    Attributes:
        count: Number of pictures.
        pictures: Iterates over them in a fixed order, once.
        close: Ends the reading.
    """

    count: int
    pictures: Callable[[], Iterator[Picture]]
    close: Callable[[], None] = lambda: None


def check_count(source: object, count: int) -> None:
    """Raise DataError if a source has no pictures, or more than `MAX_PICTURES`."""
    if count == 0:
        raise DataError(f"{source} holds no pictures")
    if count > MAX_PICTURES:
        raise DataError(f"{source} declares {count} pictures; at most {MAX_PICTURES} are read")
