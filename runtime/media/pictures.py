"""Writes pictures, with a comment that `image_metadata` can read back, and signed if this user has a key for it."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from stylert.core.errors import InputError, OutputError, as_path, shown
from stylert.core.files.atomic import atomic_file, check_writable
from stylert.core.files.json_documents import read_document
from stylert.core.images.grids import described
from stylert.core.provenance.signing import says_generated, signed
from stylert.runtime.bundle import Bundle
from stylert.runtime.media.image_metadata import PNG_KEY, read_comment, xmp_packet

#: Suffixes of the formats that can hold a comment
COMMENTED = (".png", ".webp", ".gif", ".jpg", ".jpeg")
GREY_OR_RGB = (1, 3)
#: Numbers of channels of the picture formats that also hold alpha. Other formats are grey or RGB.
CHANNELS = {".png": (1, 2, 3, 4), ".webp": (1, 2, 3, 4), ".tif": (1, 2, 3, 4), ".tiff": (1, 2, 3, 4)}


def save_image(image: np.ndarray, path: str | Path, comment: str | None = None, generated: bool = False) -> None:
    """Write a picture. The file appears whole or not at all.

    If the user has a signing credential, a generated picture gets a C2PA manifest (`core.provenance.signing`).

    Args:
        image: uint8 `[H, W, C]`, with as many channels as the format holds (`CHANNELS`).
        path: The file. Its suffix chooses the format.
        comment: ASCII text for the file: PNG text, WebP XMP, or a GIF or JPEG comment.
        generated: Whether a model made the picture. A comment that is a recipe says so, too.

    Raises:
        InputError: The suffix belongs to no format, or to one that cannot hold the comment or the channels.
        OutputError: The format cannot hold an image of this size, or the file cannot be written.
        SigningError: There is a credential, and it cannot sign.
    """
    path = as_path(path, "picture")
    _check_image(image)
    suffix = path.suffix.lower()
    if Image.registered_extensions().get(suffix) not in Image.SAVE:
        raise InputError(f"cannot tell the image format of {path}: use .png, .jpg or .webp")
    check_channels(path, image.shape[2])
    if comment is not None:
        check_commented(path)
        check_comment(comment)
    # Encoded in memory: Pillow writes some formats to the file descriptor itself, and passes over the error of a full disk.
    encoded = BytesIO()
    try:
        options = {} if comment is None else _comment_options(suffix, comment)
        as_picture(image).save(encoded, format=Image.registered_extensions()[suffix], **options)
    except (ValueError, OverflowError, OSError, struct.error) as e:
        raise OutputError(f"cannot write {image.shape[1]} x {image.shape[0]} pixels as {path}: {e}") from None
    data = encoded.getvalue()
    if generated or says_generated(comment):
        data = signed(data, suffix, comment)
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


def encoded_image(image: np.ndarray, suffix: str, comment: str | None = None, quality: int = 90) -> bytes:
    """The bytes of a picture file, for a network rather than a disk.

    Args:
        image: uint8 `[H, W, C]`, with as many channels as the format holds (`CHANNELS`).
        suffix: `.png`, `.jpg` or `.webp`. PNG is compressed lightly: it takes a third of the time, for a few percent of size.
        comment: As for `save_image`.
        quality: Of JPEG and WebP, 1 to 100.

    Raises:
        InputError: This is no image or comment, or the format cannot hold the channels.
        SigningError: There is a credential, and it cannot sign.
    """
    _check_image(image)
    if suffix not in (".png", ".jpg", ".webp"):
        raise InputError(f"a picture is encoded as .png, .jpg or .webp, not {shown(suffix)}")
    if isinstance(quality, bool) or not isinstance(quality, int) or not 1 <= quality <= 100:
        raise InputError(f"the quality of a picture is a whole number from 1 to 100, not {shown(quality)}")
    check_channels(f"a{suffix}", image.shape[2])
    if comment is not None:
        check_comment(comment)
    options: dict[str, object] = {} if comment is None else _comment_options(suffix, comment)
    options |= {"compress_level": 1} if suffix == ".png" else {"quality": quality}
    file = BytesIO()
    as_picture(image).save(file, format=Image.registered_extensions()[suffix], **options)
    return signed(file.getvalue(), suffix, comment) if says_generated(comment) else file.getvalue()


def as_picture(image: np.ndarray) -> Image.Image:
    """A uint8 image `[H, W, 1 to 4]` as a picture of Pillow, in mode L, LA, RGB or RGBA."""
    return Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)


def check_channels(path: str | Path, channels: int, is_video: bool = False) -> None:
    """Raise InputError unless a picture, or a video, of this suffix can hold so many channels."""
    suffix = Path(path).suffix.lower()
    allowed = GREY_OR_RGB if is_video else CHANNELS.get(suffix, GREY_OR_RGB)
    if channels not in allowed:
        counts = ", ".join(map(str, allowed[:-1])) + f" or {allowed[-1]}"
        kind = "video" if is_video else "picture"
        raise InputError(
            f"cannot write {channels} channels as {path}: a {suffix} {kind} holds {counts}; from Python, images are arrays"
        )


def check_bundle_channels(path: str | Path, bundle: Bundle) -> None:
    """Raise InputError unless the images of a bundle are pictures, and one of this suffix can hold their channels."""
    if bundle.channels:
        names = ", ".join(channel.name for channel in bundle.channels)
        raise InputError(
            f"cannot write measured values ({names}) as {path}: write them with stylert generate --format npz, "
            "or show them as grey tiles with its --format png"
        )
    check_channels(path, bundle.model["img_channels"])


def check_commented(path: str | Path) -> None:
    """Raise InputError unless pictures of this suffix can hold a comment."""
    if Path(path).suffix.lower() not in COMMENTED:
        raise InputError(f"cannot write {path} with its recipe: use {', '.join(COMMENTED)}")


def check_comment(comment: object) -> None:
    """Raise InputError unless this is ASCII text, which every format holds."""
    if not isinstance(comment, str) or not comment.isascii() or "\0" in comment:
        raise InputError(f"the comment of a file is ASCII text, not {shown(comment)}")


def check_own_picture(path: Path) -> None:
    """Check that a picture or video can be written, and that no file of others is lost.

    Raises:
        OutputError: The file cannot be written, or the one there carries no comment of stylert. An empty one may be replaced.
    """
    check_writable(path)
    if not path.exists() or path.stat().st_size == 0:
        return
    try:
        comment = read_document(read_comment(path), dict[str, Any], f"the comment of {path}", InputError)
    except InputError:
        comment = {}
    if not isinstance(comment.get("command"), str):
        raise OutputError(
            f"cannot write {path}: stylert did not draw the file there, or its recipe was removed; choose another name"
        )


def _check_image(image: object) -> None:
    """Raise InputError unless this is a uint8 array `[H, W, C]` with at least one pixel."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3:
        raise InputError(f"a picture is made of a uint8 array [H, W, C], not {described(image)}")
    if 0 in image.shape:
        raise InputError(f"a picture has at least one pixel, not {list(image.shape)}")


def _comment_options(suffix: str, comment: str) -> dict[str, object]:
    """The options with which Pillow writes `comment` into a file of this suffix."""
    if suffix == ".png":
        info = PngInfo()
        info.add_text(PNG_KEY, comment)
        return {"pnginfo": info}
    if suffix == ".webp":
        return {"xmp": xmp_packet(comment)}
    return {"comment": comment.encode("ascii")}
