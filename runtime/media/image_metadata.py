"""Reads the comment of a picture or video without decoding its pixels.

A file from the network may be hostile, so no image or video library opens it here. Each reader below walks over the blocks
of one container by their lengths and seeks past all but the comment. It reads at most `MAX_COMMENT` bytes of comment and
the headers of `MAX_BLOCKS` blocks.

| container | where the comment is |
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

from stylert.core.errors import InputError, as_path, shown_line
from stylert.core.files.inputs import open_file
from stylert.core.provenance.signing import source_type

PNG_KEY = "stylert"
MAX_COMMENT = 60_000  # a JPEG comment holds 65,533
MAX_BLOCKS = 100_000
#: Largest file: any that a disk holds, since no more than the blocks are read
MAX_FILE = 2**63

_XMP_OPEN, _XMP_CLOSE = "<stylert:comment>", "</stylert:comment>"
# The digital source type is the IPTC's term, which other software understands.
_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:stylert="urn:stylert" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
    "<Iptc4xmpExt:DigitalSourceType>%s"
    f"</Iptc4xmpExt:DigitalSourceType>{_XMP_OPEN}%s{_XMP_CLOSE}</rdf:Description></rdf:RDF></x:xmpmeta>"
)


def read_comment(path: str | Path) -> str:
    """The comment of a PNG, JPEG, GIF, WebP or MP4 file.

    Raises:
        InputError: The file is missing, of another kind, damaged before its comment, or has no comment.
    """
    path = as_path(path, "picture")
    try:
        with open_file(path, InputError, MAX_FILE) as file:
            comment = _read_comment(file)
        text = None if comment is None else comment.decode("utf-8")
    except OSError as e:
        raise InputError(f"cannot read {path}: {e.strerror or e}") from None
    except EOFError:
        raise InputError(f"{path} is cut short or damaged") from None
    except ValueError as e:
        raise InputError(f"the comment of {path} cannot be read: {shown_line(str(e))}") from None
    if text is None:
        raise InputError(f"{path} has no recipe: it is no picture or video of stylert, or its metadata was removed")
    return text


def xmp_packet(comment: str) -> bytes:
    """An XMP packet with `comment` and the statement that a trained model made the picture, or changed the photograph in it."""
    return (_XMP % (source_type(comment), html.escape(comment, quote=False))).encode()


def _read_comment(file: BinaryIO) -> bytes | None:
    """The comment, or None if there is none. Raises EOFError at an early end, and ValueError if it is too long."""
    start = file.read(12)
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png_comment(file)
    if start.startswith(b"\xff\xd8\xff"):
        return _jpeg_comment(file)
    if start.startswith((b"GIF87a", b"GIF89a")):
        return _gif_comment(file)
    if start.startswith(b"RIFF") and start.endswith(b"WEBP"):
        return _webp_comment(file)
    if start[4:8] == b"ftyp":
        return _mp4_comment(file)
    return None


def _png_comment(file: BinaryIO) -> bytes | None:
    crc_bytes = 4
    file.seek(8)
    for _ in range(MAX_BLOCKS):
        length, kind = int.from_bytes(_read_exactly(file, 4), "big"), _read_exactly(file, 4)
        if kind in (b"IDAT", b"IEND"):
            return None
        if kind != b"tEXt":
            file.seek(length + crc_bytes, 1)
            continue
        key, _, text = _read_limited(file, length).partition(b"\0")
        if key == PNG_KEY.encode():
            return text
        file.seek(crc_bytes, 1)
    return None


def _jpeg_comment(file: BinaryIO) -> bytes | None:
    comment, start_of_scan = b"\xff\xfe", b"\xff\xda"
    file.seek(2)
    for _ in range(MAX_BLOCKS):
        marker, length = _read_exactly(file, 2), int.from_bytes(_read_exactly(file, 2), "big")
        if marker[0] != 0xFF or marker == start_of_scan or length < 2:
            return None
        if marker == comment:
            return _read_limited(file, length - 2)
        file.seek(length - 2, 1)
    return None


def _gif_comment(file: BinaryIO) -> bytes | None:
    extension, comment_label = b"!", b"\xfe"
    file.seek(6)
    flags = _read_exactly(file, 7)[4]
    has_palette = flags & 0x80
    file.seek(3 * 2 ** ((flags & 7) + 1) if has_palette else 0, 1)
    in_extension = False
    for _ in range(MAX_BLOCKS):
        if in_extension:
            length = _read_exactly(file, 1)[0]
            file.seek(length, 1)
            in_extension = length > 0
            continue
        if _read_exactly(file, 1) != extension:  # an image, or the end of the file
            return None
        if _read_exactly(file, 1) == comment_label:
            return _gif_sub_blocks(file)
        in_extension = True
    return None


def _gif_sub_blocks(file: BinaryIO) -> bytes:
    """The data of an extension: sub-blocks of up to 255 bytes, ended by an empty one."""
    data = b""
    while (length := _read_exactly(file, 1)[0]) > 0:
        data += _read_exactly(file, length)
        _check_length(len(data))
    return data


def _webp_comment(file: BinaryIO) -> bytes | None:
    for _ in range(MAX_BLOCKS):
        header = file.read(8)
        if not header:
            return None
        if len(header) < 8:
            raise EOFError
        kind, length = header[:4], int.from_bytes(header[4:], "little")
        if kind == b"XMP ":
            return _xmp_comment(_read_limited(file, length))
        file.seek(length + length % 2, 1)  # chunks are padded to an even length
    return None


def _xmp_comment(packet: bytes) -> bytes | None:
    _, element, rest = packet.partition(_XMP_OPEN.encode())
    if not element:
        return None
    escaped = rest.partition(_XMP_CLOSE.encode())[0]
    return html.unescape(escaped.decode("utf-8")).encode()


def _mp4_comment(file: BinaryIO) -> bytes | None:
    start, end = 0, file.seek(0, 2)
    for kind in (b"moov", b"udta", b"meta", b"ilst", b"\xa9cmt", b"data"):
        content = next(((first, last) for name, first, last in _mp4_boxes(file, start, end) if name == kind), None)
        if content is None:
            return None
        start, end = content
        if kind == b"meta":
            start += 4  # version and flags
    type_and_locale = 8
    file.seek(start + type_and_locale)
    return _read_limited(file, end - start - type_and_locale)


def _mp4_boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the content of every box between the offsets `start` and `end`."""
    for _ in range(MAX_BLOCKS):
        if end - start < 8:
            return
        file.seek(start)
        length, kind, header = int.from_bytes(_read_exactly(file, 4), "big"), _read_exactly(file, 4), 8
        if length == 1:  # a length of 64 bits follows
            length, header = int.from_bytes(_read_exactly(file, 8), "big"), 16
        elif length == 0:  # the box goes on to the end
            length = end - start
        if not header <= length <= end - start:
            raise EOFError
        yield kind, start + header, start + length
        start += length


def _read_limited(file: BinaryIO, length: int) -> bytes:
    _check_length(length)
    return _read_exactly(file, length)


def _check_length(length: int) -> None:
    if length > MAX_COMMENT:
        raise ValueError(f"it is longer than {MAX_COMMENT} bytes")


def _read_exactly(file: BinaryIO, length: int) -> bytes:
    """The next `length` bytes. Raises EOFError if there are fewer."""
    if length < 0 or len(data := file.read(length)) < length:
        raise EOFError
    return data
