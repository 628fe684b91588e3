"""Images as uint8 arrays: conversion from float, and grids of images."""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path

import numpy as np

from stylert.core.errors import InputError, as_path, shown, shown_line
from stylert.core.files.atomic import atomic_file
from stylert.core.images.channels import PICTURE_CHANNELS
from stylert.core.provenance.signing import signed

#: Pixels in a side of a picture with columns that nothing fills.
MAX_SIDE = 65_535


def as_uint8(images: np.ndarray) -> np.ndarray:
    """Images as uint8 `[N, H, W, C]`, converted as in the official tools: `x * 127.5 + 128`, clipped, truncated.

    Args:
        images: float `[N, C, H, W]` in [-1, 1], or uint8 `[N, H, W, C]`, which is returned as it is.

    Raises:
        InputError: These are no such images, or a value is not finite, as after an overflow in a network. It would be black.
    """
    if not isinstance(images, np.ndarray) or images.ndim != 4 or (images.dtype != np.uint8 and images.dtype.kind != "f"):
        raise InputError(f"images are float [N, C, H, W] or uint8 [N, H, W, C], not {described(images)}")
    if images.dtype == np.uint8:
        return images
    if not np.isfinite(images).all():
        raise InputError("images hold values that are not finite: the network overflows, or its inputs are too large")
    return np.clip(images.transpose(0, 2, 3, 1) * 127.5 + 128, 0, 255).astype(np.uint8)


def make_grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Tile images row by row into one image.

    Args:
        images: uint8 `[N, H, W, C]`.
        columns: As in `Grid`.

    Returns:
        uint8 `[rows * H, columns * W, C]`.

    Raises:
        InputError: As `Grid`.
    """
    _check_images(images)
    grid = Grid(len(images), columns)
    grid.add(images)
    return grid.picture


class Grid:
    """Images in rows, as one picture. They may come one after the other: each is copied to its place, and needed no more.

    Args:
        count: The number of cells.
        columns: Images per row. By default the rows are full and the grid is at most twice as wide as high, if N has such
            a divisor. Otherwise the grid is nearly square. Cells that get no image are white.

    Attributes:
        filled: The number of cells that have an image or were skipped.

    Raises:
        InputError: `columns` is no whole number from 1 on, or so many are wider than a picture may be.
    """

    def __init__(self, count: int, columns: int | None = None) -> None:
        if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 1:
            raise InputError(f"a grid has 1 image or more, not {shown(count)}")
        self.count, self.filled = int(count), 0
        self.columns = _columns(count) if columns is None else columns
        self._cells: np.ndarray | None = None  # [rows, H, columns, W, C]

    def skip(self, cells: int = 1) -> None:
        """Leave the next cells white."""
        self.filled += cells

    def add(self, images: np.ndarray) -> None:
        """Put images, uint8 `[N, H, W, C]` of one shape, into the next cells. Raises InputError for others, and for too many."""
        _check_images(images)
        if self._cells is None:
            self._cells = self._new_cells(*images.shape[1:])
        rows, h, columns, w, c = self._cells.shape
        if images.shape[1:] != (h, w, c) or self.filled + len(images) > rows * columns:
            raise InputError(f"a grid of {rows} x {columns} images [{h}, {w}, {c}] cannot take {described(images)}")
        for image in images:
            row, column = divmod(self.filled, self.columns)
            self._cells[row, :, column] = image
            self.filled += 1

    @property
    def picture(self) -> np.ndarray:
        """uint8 `[rows * H, columns * W, C]`, without a copy. Raises InputError without an image, whose size it needs."""
        if self._cells is None:
            raise InputError("a grid without an image has no picture")
        rows, h, columns, w, c = self._cells.shape
        return self._cells.reshape(rows * h, columns * w, c)

    def _new_cells(self, h: int, w: int, c: int) -> np.ndarray:
        most, columns = max(self.count, MAX_SIDE // w), self.columns
        if isinstance(columns, bool) or not isinstance(columns, (int, np.integer)) or not 1 <= columns <= most:
            raise InputError(f"a grid has 1 to {most} columns of {w} px, not {shown(columns)}")
        return np.full((math.ceil(self.count / columns), h, int(columns), w, c), 255, np.uint8)


def _check_images(images: np.ndarray) -> None:
    """Raise InputError unless these are images that a grid can hold."""
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
        raise InputError(f"a grid holds images, uint8 [N, H, W, C], not {described(images)}")


def _columns(n: int) -> int:
    square = math.isqrt(n - 1) + 1
    return next((k for k in range(square, math.isqrt(2 * n) + 1) if n % k == 0), square)


def described(images: object) -> str:
    """An argument that is no array of images, for a message."""
    return f"{images.dtype} {list(images.shape)}" if isinstance(images, np.ndarray) else shown(images)


def save_grid(
    images: np.ndarray, path: str | Path, columns: int | None = None, generated: bool = False, within: Path | None = None
) -> None:
    """Write the grid of images as a PNG file, whole or not at all.

    If the user has a signing credential, a generated grid gets a C2PA manifest (`core.provenance.signing`).

    Args:
        images: uint8 `[N, H, W, 1 to 4]`: grey or RGB, or one channel more with alpha.
        path: The file.
        columns: As in `make_grid`.
        generated: Whether a model made the images.
        within: As in `atomic_file`.

    Raises:
        InputError: These are no such images, or the name of the file does not end in `.png`.
        OutputError: The file cannot be written.
        SigningError: There is a credential, and it cannot sign.
    """
    from PIL import Image

    if as_path(path, "grid").suffix.lower() != ".png":
        raise InputError(f"a grid is a PNG file, and {shown_line(str(path))} does not end in .png")
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4:
        raise InputError(f"a grid is made of uint8 images [N, H, W, C], not {described(images)}")
    if 0 in images.shape or images.shape[3] not in PICTURE_CHANNELS:
        raise InputError(f"a grid is made of at least one image of 1 to 4 channels, not of {list(images.shape)}")
    grid = make_grid(images, columns)
    encoded = BytesIO()
    Image.fromarray(grid.squeeze(2) if grid.shape[2] == 1 else grid).save(encoded, format="png")
    with atomic_file(path, within) as temporary:
        temporary.write_bytes(signed(encoded.getvalue(), ".png", None) if generated else encoded.getbuffer())
