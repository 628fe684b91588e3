"""Images to files: each with a comment that `image_metadata` reads back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from stylert.core.atomic import atomic_file
from stylert.core.errors import InputError, OutputError
from stylert.runtime.media.image_metadata import PNG_KEY, xmp_packet

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
