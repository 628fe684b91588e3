"""The comment that a picture or video carries, read without decoding anything.

A file from the network may be hostile, so no image or video library opens it here: each container's blocks are walked by their
lengths, seeking over all but the comment. At most `MAX_COMMENT` bytes of it and `MAX_BLOCKS` block headers are read.

| container | where the comment lies |
|---|---|
| PNG | tEXt chunk with the key `stylert`, before the image data |
| JPEG | COM segment, before the scan |
| GIF | comment extension, before the first image |
| WebP | XMP chunk, in an element `stylert:comment` |
| MP4 | iTunes comment: moov / udta / meta / ilst / ©cmt / data |
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from stylert.core.errors import InputError

PNG_KEY = "stylert"
MAX_COMMENT = 60_000  # a JPEG comment holds 65,533
MAX_BLOCKS = 1_000_000

_XMP_OPEN, _XMP_CLOSE = "<stylert:comment>", "</stylert:comment>"
# The IPTC's word for "made by a trained model", which other software understands.
_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:stylert="urn:stylert" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
    "<Iptc4xmpExt:DigitalSourceType>http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    f"</Iptc4xmpExt:DigitalSourceType>{_XMP_OPEN}%s{_XMP_CLOSE}</rdf:Description></rdf:RDF></x:xmpmeta>"
)


def read_comment(path: str | Path) -> str:
    """The comment of a PNG, JPEG, GIF, WebP or MP4 file.

    Raises InputError, in one line, when the file is missing, of another kind, damaged before its comment, or carries none.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():  # a pipe or a device would be waited for
            raise InputError(f"{path} is not a file")
        with open(path, "rb") as file:
            found = _find(file)
        text = None if found is None else found.decode("utf-8")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except OSError as e:
        raise InputError(f"cannot read {path}: {e.strerror or e}") from None
    except EOFError:
        raise InputError(f"{path} is cut short or damaged") from None
    except ValueError as e:
        raise InputError(f"the comment of {path} cannot be read: {e}") from None
    if text is None:
        raise InputError(
            f"{path} carries no recipe: it is not a picture or video that stylert wrote, or its metadata was removed"
        )
    return text


def xmp_packet(comment: str) -> bytes:
    """An XMP packet that holds `comment` and says that a trained model made the picture."""
    return (_XMP % html.escape(comment, quote=False)).encode()


def _find(file: BinaryIO) -> bytes | None:
    start = file.read(12)
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(file)
    if start.startswith(b"\xff\xd8\xff"):
        return _jpeg(file)
    if start.startswith((b"GIF87a", b"GIF89a")):
        return _gif(file)
    if start.startswith(b"RIFF") and start.endswith(b"WEBP"):
        return _webp(file)
    if start[4:8] == b"ftyp":
        return _mp4(file)
    return None


def _png(file: BinaryIO) -> bytes | None:
    file.seek(8)
    for _ in range(MAX_BLOCKS):
        length, kind = int.from_bytes(_exactly(file, 4), "big"), _exactly(file, 4)
        if kind in (b"IDAT", b"IEND"):
            return None
        if kind == b"tEXt":
            key, _, text = _limited(file, length).partition(b"\0")
            if key == PNG_KEY.encode():
                return text
            file.seek(4, 1)
        else:
            file.seek(length + 4, 1)
    return None


def _jpeg(file: BinaryIO) -> bytes | None:
    file.seek(2)
    for _ in range(MAX_BLOCKS):
        marker, length = _exactly(file, 2), int.from_bytes(_exactly(file, 2), "big")
        if marker[0] != 0xFF or marker == b"\xff\xda" or length < 2:
            return None
        if marker == b"\xff\xfe":
            return _limited(file, length - 2)
        file.seek(length - 2, 1)
    return None


def _gif(file: BinaryIO) -> bytes | None:
    file.seek(6)
    flags = _exactly(file, 7)[4]
    file.seek(3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0, 1)
    for _ in range(MAX_BLOCKS):
        if _exactly(file, 1) != b"!":  # an image, or the end
            return None
        kept = b"" if _exactly(file, 1) == b"\xfe" else None
        while (length := _exactly(file, 1)[0]) > 0:
            if kept is None:
                file.seek(length, 1)
            else:
                kept += _exactly(file, length)
                _check_length(len(kept))
        if kept is not None:
            return kept
    return None


def _webp(file: BinaryIO) -> bytes | None:
    for _ in range(MAX_BLOCKS):
        head = file.read(8)
        if not head:
            return None
        if len(head) < 8:
            raise EOFError
        length = int.from_bytes(head[4:], "little")
        if head[:4] == b"XMP ":
            _, opened, rest = _limited(file, length).partition(_XMP_OPEN.encode())
            return html.unescape(rest.partition(_XMP_CLOSE.encode())[0].decode("utf-8")).encode() if opened else None
        file.seek(length + length % 2, 1)
    return None


def _mp4(file: BinaryIO) -> bytes | None:
    start, end = 0, file.seek(0, 2)
    for want in (b"moov", b"udta", b"meta", b"ilst", b"\xa9cmt", b"data"):
        found = next(((a, b) for kind, a, b in _boxes(file, start, end) if kind == want), None)
        if found is None:
            return None
        start, end = found
        if want == b"meta":
            start += 4  # version and flags
    file.seek(start + 8)  # type and locale
    return _limited(file, end - start - 8)


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """`(kind, start, end)` of the contents of the boxes that lie one after another from `start` to `end`."""
    for _ in range(MAX_BLOCKS):
        if end - start < 8:
            return
        file.seek(start)
        length, kind, head = int.from_bytes(_exactly(file, 4), "big"), _exactly(file, 4), 8
        if length == 1:
            length, head = int.from_bytes(_exactly(file, 8), "big"), 16
        elif length == 0:
            length = end - start
        if not head <= length <= end - start:
            raise EOFError
        yield kind, start + head, start + length
        start += length


def _limited(file: BinaryIO, length: int) -> bytes:
    _check_length(length)
    return _exactly(file, length)


def _check_length(length: int) -> None:
    if length > MAX_COMMENT:
        raise ValueError(f"it is longer than {MAX_COMMENT} bytes")


def _exactly(file: BinaryIO, length: int) -> bytes:
    """The next `length` bytes. Raises EOFError when there are fewer."""
    if length < 0 or len(data := file.read(length)) < length:
        raise EOFError
    return data
