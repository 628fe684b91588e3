"""Pictures as photographs for a restorer: read, brought to its size, and faces in boxes put back into their picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from stylert.core.errors import DataError, InputError, PictureError, shown
from stylert.core.files.inputs import read_file
from stylert.core.images.pictures import MAX_BYTES, decode_picture
from stylert.core.numerals import is_whole_number

#: Least side of a box, in pixels.
MIN_BOX = 8
#: Width of the soft border of a box, as a share of its side.
BORDER = 1 / 16


@dataclass(frozen=True)
class Box:
    """A square in a picture, in pixels.

    Attributes:
        left: Pixels to its left.
        top: Pixels above it.
        side: Its width and height.
    """

    left: int
    top: int
    side: int

    def __str__(self) -> str:
        return f"{self.left},{self.top},{self.side}"


def parse_box(text: str) -> Box:
    """Read a box, such as `120,80,256`: left, top and side. Raises InputError for other text."""
    parts = text.split(",")
    if len(parts) != 3 or not all(map(is_whole_number, parts)):
        raise InputError(f"a box is left,top,side in pixels, such as 120,80,256, not {shown(text)}")
    box = Box(*map(int, parts))
    if box.side < MIN_BOX:
        raise InputError(f"a box has a side of at least {MIN_BOX} pixels, not {box.side}")
    return box


def read_photograph(file: Path) -> np.ndarray:
    """A picture file as RGB, uint8 `[H, W, 3]`, by the rule of `core.images.pictures`. Grey becomes RGB.

    Raises:
        DataError: It is missing, or no picture.
    """
    data = read_file(file, DataError, MAX_BYTES, "picture")
    try:
        return np.asarray(decode_picture(data).convert("RGB"))
    except PictureError as e:
        raise DataError(f"{file} cannot be read as a picture: {e}") from None


def resized(photograph: np.ndarray, side: int) -> np.ndarray:
    """A square photograph, uint8 `[H, H, 3]`, at another side. Others lose what a square in their middle leaves out."""
    height, width, _ = photograph.shape
    least = min(height, width)
    top, left = (height - least) // 2, (width - least) // 2
    square = photograph[top : top + least, left : left + least]
    return square if least == side else _resized(square, side)


def crop(photograph: np.ndarray, box: Box, side: int) -> np.ndarray:
    """The square of a box at a restorer's side, uint8 `[side, side, 3]`.

    Raises:
        InputError: The box reaches out of the picture.
    """
    height, width, _ = photograph.shape
    if box.left + box.side > width or box.top + box.side > height:
        raise InputError(f"the box {box} reaches out of the picture, which has {width} x {height} pixels")
    square = photograph[box.top : box.top + box.side, box.left : box.left + box.side]
    return square if box.side == side else _resized(square, side)


def with_faces(photograph: np.ndarray, boxes: Sequence[Box], images: np.ndarray) -> np.ndarray:
    """The picture with restored squares in their boxes, the later ones over the earlier ones.

    A square fades out over `BORDER` of its side. Pixels outside of the boxes are those of the picture.

    Args:
        photograph: uint8 `[H, W, 3]`.
        boxes: Squares within it.
        images: The restored square of each box, uint8 `[N, R, R, 3]`.
    """
    result = photograph.copy()
    for box, image in zip(boxes, images, strict=True):
        square = image if len(image) == box.side else _resized(image, box.side)
        ramp = np.minimum(np.arange(box.side), np.arange(box.side)[::-1]) / max(BORDER * box.side, 1)
        weight = np.minimum(ramp[:, None], ramp[None])[..., None].clip(0, 1)
        place = result[box.top : box.top + box.side, box.left : box.left + box.side]
        place[:] = np.rint(weight * square + (1 - weight) * place).astype(np.uint8)
    return result


def _resized(square: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(square).resize((side, side), Image.Resampling.LANCZOS))
