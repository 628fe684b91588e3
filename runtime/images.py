"""Images to files: single pictures and grids, each with a comment that `runtime.comments` reads back."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from stylert.runtime.atomic import atomic_file
from stylert.runtime.comments import PNG_KEY, xmp_packet
from stylert.runtime.errors import InputError, OutputError

#: Suffixes whose formats keep a comment
COMMENTED = (".png", ".webp", ".gif", ".jpg", ".jpeg")


def save_image(image: np.ndarray, path: str | Path, comment: str | None = None) -> None:
    """Write one uint8 image `[H, W, 1 or 3]`; the suffix chooses the format. Atomic.

    `comment` (ASCII) goes into the file: PNG text, WebP XMP, GIF or JPEG comment. Raises InputError for a suffix that no format
    has, or whose format keeps no comment, and OutputError when the format cannot hold the image.
    """
    path = Path(path)
    if path.suffix.lower() not in Image.registered_extensions():
        raise InputError(f"cannot tell the image format of {path}: use .png, .jpg or .webp")
    if comment is not None:
        check_commented(path)
    with atomic_file(path) as temporary:
        try:
            Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(
                temporary, format=Image.registered_extensions()[path.suffix.lower()], **_holding(path, comment)
            )
        except ValueError as e:
            raise OutputError(f"cannot write {image.shape[1]} x {image.shape[0]} pixels as {path}: {e}") from None


def check_commented(path: str | Path) -> None:
    """Raise InputError unless pictures of this suffix can carry a comment."""
    if Path(path).suffix.lower() not in COMMENTED:
        raise InputError(f"cannot write {path} with its recipe: use {', '.join(COMMENTED)}")


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
    """Write the grid of `images` `[N, H, W, C]`."""
    save_image(make_grid(images, columns), path)


def as_uint8(images: np.ndarray) -> np.ndarray:
    """Images of either output type as uint8 `[N, H, W, C]`, converted as the official tools do."""
    if images.dtype == np.uint8:
        return images
    return np.clip(images.transpose(0, 2, 3, 1) * 127.5 + 128, 0, 255).astype(np.uint8)


def _holding(path: Path, comment: str | None) -> dict[str, object]:
    """The options by which Pillow writes `comment` in the format of `path`."""
    if comment is None:
        return {}
    if path.suffix.lower() == ".png":
        info = PngInfo()
        info.add_text(PNG_KEY, comment)
        return {"pnginfo": info}
    if path.suffix.lower() == ".webp":
        return {"xmp": xmp_packet(comment)}
    return {"comment": comment.encode("ascii")}
