"""The parts of a picture file, counted before a decoder sees them.

A file of a few kilobytes can keep a decoder at work without end: by thousands of scans, empty chunks, or segments before the pixels.
Formats are those of the PNG specification (ISO/IEC 15948), ITU-T T.81 for JPEG, GIF89a, and the bitmaps of Windows and OS/2.
"""

from __future__ import annotations

import re

from stylert.core.errors import PictureError

#: Chunks of a PNG, and scans of a JPEG, at most. However small it is, each takes the decoder its time.
MAX_CHUNKS, MAX_SCANS = 2**16, 100
#: Bytes before the pixels, and the segments of a JPEG in them, at most. Pillow reads them one by one, and keeps copies.
MAX_JPEG_HEADER, MAX_GIF_HEADER, MAX_SEGMENTS = 2**24, 2**20, 4096
GIF_SIGNATURES, GIF_FRAME, GIF_EXTENSION, GIF_END = (b"GIF87a", b"GIF89a"), 0x2C, 0x21, 0x3B
PNG_SIGNATURE, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"
#: A bitmap has the size of its second header at byte 14. One of 12 bytes knows no compression, all others have it at byte 30.
BMP_SIGNATURE, BMP_SHORT_HEADER, BMP_RUN_LENGTHS = b"BM", 12, (1, 2)
JPEG_SIGNATURE, JPEG_SCAN, JPEG_END = b"\xff\xd8", 0xDA, 0xD9
#: The next marker of a JPEG, behind coded pixels too. Two bytes there look like one: a stuffed zero, and those that restart the decoder.
JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")


def passes_over_pixels(data: bytes) -> int:
    """The number of times that the decoder of a picture file passes over its pixels.

    Args:
        data: Content of the file.

    Raises:
        PictureError: The file has so many parts that the decoder would come to no end. Or it is a bitmap of run lengths, which
            Pillow unpacks in Python, byte by byte: 25 seconds for a file of 41 kB. The message does not name it.
    """
    if data.startswith(BMP_SIGNATURE) and _has_run_lengths(data):
        raise PictureError("it is a bitmap of run lengths (RLE); save it as PNG")
    if data.startswith(JPEG_SIGNATURE):
        if (scans := _scans(data)) > MAX_SCANS:
            raise PictureError("it has too many scans")
        return scans
    if data.startswith(GIF_SIGNATURES):
        _check_gif_header(data[:MAX_GIF_HEADER])
    if data.startswith(PNG_SIGNATURE):
        position = len(PNG_SIGNATURE)
        for _ in range(MAX_CHUNKS):
            if data[position + 4 : position + 8] == PNG_END:
                return 1
            position += 12 + int.from_bytes(data[position : position + 4])  # length, name, content, checksum
            if position >= len(data):
                return 1
        raise PictureError("it has too many chunks")
    return 1


def _has_run_lengths(data: bytes) -> bool:
    """Whether a bitmap is packed by run lengths of 8 or 4 bits."""
    header, compression = (int.from_bytes(data[at : at + 4], "little") for at in (14, 30))
    return header != BMP_SHORT_HEADER and compression in BMP_RUN_LENGTHS


def _scans(data: bytes) -> int:
    """The number of scans in a JPEG, up to its end. Cameras append videos, and put small pictures into its segments."""
    scans, segments, fill, position = 0, 0, 0, len(JPEG_SIGNATURE)
    while scans <= MAX_SCANS and (marker := JPEG_MARKER.search(data, position)) is not None:
        if scans == 0:
            segments, fill = segments + 1, fill + marker.start() - position
        kind, position = marker[0][1], marker.end()
        if kind == JPEG_END:
            break
        scans += kind == JPEG_SCAN
        if scans == 0 and (segments > MAX_SEGMENTS or position > MAX_JPEG_HEADER or fill > MAX_SEGMENTS):
            raise PictureError("it has too much before its pixels")
        position += int.from_bytes(data[position : position + 2])  # the segment that the marker begins
    return scans


def _check_gif_header(head: bytes) -> None:
    """Raise PictureError unless the first frame of a GIF begins within these first bytes of it."""
    flags = head[10] if len(head) > 10 else 0
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while position < len(head):
        kind = head[position]
        if kind in (GIF_FRAME, GIF_END):
            return
        position += 1
        if kind == GIF_EXTENSION:
            position += 1  # its name
            while position < len(head) and head[position]:
                position += head[position] + 1
            position += 1
    if len(head) == MAX_GIF_HEADER:
        raise PictureError("it has too much before its pixels")
