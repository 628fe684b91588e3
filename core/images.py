"""Images as arrays: to uint8, and many as one grid."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from stylert.core.atomic import atomic_file


def as_uint8(images: np.ndarray) -> np.ndarray:
    """Images of either output type as uint8 `[N, H, W, C]`, converted as the official tools do."""
    if images.dtype == np.uint8:
        return images
    return np.clip(images.transpose(0, 2, 3, 1) * 127.5 + 128, 0, 255).astype(np.uint8)


def make_grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Tile uint8 images `[N, H, W, C]` row by row into one.

    By default in full rows, at most twice as many columns as rows, where N allows; else as near to square as can be, the rest white.
    """
    n, h, w, c = images.shape
    columns = columns or _columns(n)
    rows = math.ceil(n / columns)
    grid = np.full((rows * columns, h, w, c), 255, np.uint8)
    grid[:n] = images
    return grid.reshape(rows, columns, h, w, c).swapaxes(1, 2).reshape(rows * h, columns * w, c)


def _columns(n: int) -> int:
    square = math.isqrt(n - 1) + 1
    return next((k for k in range(square, math.isqrt(2 * n) + 1) if n % k == 0), square)


def save_grid(images: np.ndarray, path: str | Path, columns: int | None = None) -> None:
    """Write the grid of uint8 `images` `[N, H, W, 1 or 3]` as PNG. Atomic. Raises OutputError where it cannot be written."""
    from PIL import Image

    grid = make_grid(images, columns)
    with atomic_file(path) as temporary:
        Image.fromarray(grid.squeeze(2) if grid.shape[2] == 1 else grid).save(temporary, format="png")
