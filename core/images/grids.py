"""Images as uint8 arrays: conversion from float, and grids of images."""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path

import numpy as np

from stylert.core.errors import InputError, as_path, shown, shown_line
from stylert.core.files.atomic import atomic_file
from stylert.core.provenance.signing import signed

#: Pixels in a side of a picture with columns that nothing fills.
MAX_SIDE = 65_535


def as_uint8(images: np.ndarray) -> np.ndarray:
    """Images as uint8 `[N, H, W, C]`, converted as in the official tools: `x * 127.5 + 128`, clipped, truncated.

    Args:
        images: float `[N, C, H, W]` in [-1, 1], or uint8 `[N, H, W, C]`, which is returned as it is.
    """
    if images.dtype == np.uint8:
        return images
    return np.clip(images.transpose(0, 2, 3, 1) * 127.5 + 128, 0, 255).astype(np.uint8)


def make_grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Tile images row by row into one image.

    Args:
        images: uint8 `[N, H, W, C]`.
        columns: Images per row. By default the rows are full and the grid is at most twice as wide as high, if N has such
            a divisor. Otherwise the grid is nearly square, and the cells left over are white.

    Returns:
        uint8 `[rows * H, columns * W, C]`.

    Raises:
        InputError: `columns` is no whole number from 1 on, or so many are wider than a picture may be.
    """
    n, h, w, c = images.shape
    most = max(n, MAX_SIDE // w)
    if columns is not None and (
        isinstance(columns, bool) or not isinstance(columns, (int, np.integer)) or not 1 <= columns <= most
    ):
        raise InputError(f"a grid has 1 to {most} columns of {w} px, not {shown(columns)}")
    columns = _columns(n) if columns is None else int(columns)
    rows = math.ceil(n / columns)
    grid = np.full((rows * columns, h, w, c), 255, np.uint8)
    grid[:n] = images
    return grid.reshape(rows, columns, h, w, c).swapaxes(1, 2).reshape(rows * h, columns * w, c)


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
        images: uint8 `[N, H, W, 1 or 3]`.
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
    if 0 in images.shape or images.shape[3] not in (1, 3):
        raise InputError(f"a grid is made of at least one image of 1 or 3 channels, not of {list(images.shape)}")
    grid = make_grid(images, columns)
    encoded = BytesIO()
    Image.fromarray(grid.squeeze(2) if grid.shape[2] == 1 else grid).save(encoded, format="png")
    with atomic_file(path, within) as temporary:
        temporary.write_bytes(signed(encoded.getvalue(), ".png", None) if generated else encoded.getbuffer())
