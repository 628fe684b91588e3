"""From a picture file to its restored picture: the whole square, or the faces in boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stylert.core.errors import DataError, InputError
from stylert.core.files.digests import sha256_of
from stylert.runtime.restoration.photographs import Box, crop, read_photograph, resized, with_faces
from stylert.runtime.restoration.restorer import Restorer


@dataclass(frozen=True)
class Photograph:
    """A picture that a restorer can take.

    Attributes:
        pixels: uint8 `[H, W, 3]`.
        boxes: Its faces. Without any, it is itself an aligned face.
        sha256: That of its file.
        note: How its size changes, for people. Empty if it does not.
    """

    pixels: np.ndarray
    boxes: tuple[Box, ...]
    sha256: str
    note: str

    @classmethod
    def read(cls, file: Path, boxes: Sequence[Box], side: int) -> Photograph:
        """Read a picture for a network of `side` pixels.

        Raises:
            DataError: It is missing, or no picture.
            InputError: It is not square and has no boxes, or a box reaches out of it.
        """
        pixels = read_photograph(file)
        height, width, _ = pixels.shape
        note = ""
        if boxes:
            for box in boxes:
                crop(pixels, box, side)  # refuses a box that reaches out
            if any(box.side != side for box in boxes):
                note = f"{file}: the boxes are resized to {side} x {side} pixels and back"
        elif height != width:
            raise InputError(
                f"{file} has {width} x {height} pixels: give the square of each face with --box left,top,side, or a square picture"
            )
        elif height != side:
            note = f"{file}: resized from {width} x {height} to {side} x {side} pixels"
        return cls(pixels, tuple(boxes), sha256_of(file, DataError, "picture"), note)


def restore_photograph(restorer: Restorer, photograph: Photograph, batch: int = 1) -> np.ndarray:
    """The restored picture, uint8: `[R, R, 3]` of a square without boxes, else of the photograph's own shape.

    Raises:
        BackendError: The restorer is closed, or there is too little memory.
    """
    side = restorer.bundle.resolution
    if not photograph.boxes:
        return restorer.restore(resized(photograph.pixels, side)[None])[0]
    faces = np.stack([crop(photograph.pixels, box, side) for box in photograph.boxes])
    return with_faces(photograph.pixels, photograph.boxes, restorer.restore(faces, batch))
