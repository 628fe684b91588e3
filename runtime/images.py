"""Images to files: single pictures and grids."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image

from stylert.runtime.atomic import atomic_file
from stylert.runtime.errors import InputError


def save_image(image: np.ndarray, path: str | Path) -> None:
    """Write one uint8 image `[H, W, 1 or 3]`; the suffix chooses the format. Atomic."""
    path = Path(path)
    if path.suffix.lower() not in Image.registered_extensions():
        raise InputError(f"cannot tell the image format of {path}: use .png, .jpg or .webp")
    with atomic_file(path) as temporary:
        Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(
            temporary, format=Image.registered_extensions()[path.suffix.lower()]
        )


def make_grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Tile uint8 images `[N, H, W, C]` row by row into one, as near to square as N allows; the rest stays white."""
    n, h, w, c = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    grid = np.full((rows * columns, h, w, c), 255, np.uint8)
    grid[:n] = images
    return grid.reshape(rows, columns, h, w, c).swapaxes(1, 2).reshape(rows * h, columns * w, c)


def save_grid(images: np.ndarray, path: str | Path, columns: int | None = None) -> None:
    """Write the grid of `images` `[N, H, W, C]`."""
    save_image(make_grid(images, columns), path)
