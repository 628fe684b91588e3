"""The formats of pictures and videos that hold a C2PA manifest, by suffix and by first bytes."""

from __future__ import annotations

from collections.abc import Callable

#: Media type of each suffix. Files of other suffixes are not signed.
MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".mp4": "video/mp4",
}
#: First bytes of a file by which `media_type_of` knows it.
HEAD_BYTES = 12

_IS_OF_TYPE: dict[str, Callable[[bytes], bool]] = {
    "image/png": lambda head: head.startswith(b"\x89PNG\r\n\x1a\n"),
    "image/jpeg": lambda head: head.startswith(b"\xff\xd8\xff"),
    "image/webp": lambda head: head.startswith(b"RIFF") and head.endswith(b"WEBP"),
    "image/gif": lambda head: head.startswith((b"GIF87a", b"GIF89a")),
    "video/mp4": lambda head: head[4:8] == b"ftyp",
}


def media_type_of(head: bytes) -> str | None:
    """The media type of a file by its first `HEAD_BYTES` bytes, or None if it is of another kind. Its name may be wrong."""
    return next((kind for kind, is_of_type in _IS_OF_TYPE.items() if is_of_type(head)), None)
