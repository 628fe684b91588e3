"""The tiles that a TIFF declares, read before a decoder sees the file.

libtiff unpacks a whole tile, however small the picture is that it belongs to. Pillow and libtiff each read the header for
themselves, so a header that two readers may understand in two ways is refused. The format is that of TIFF 6.0 and BigTIFF.
"""

from __future__ import annotations

import math
import struct

from stylert.core.errors import PictureError

#: Entries of the directory, and values of one entry, at most. Strips and tiles have an entry with a value for each.
MAX_ENTRIES, MAX_VALUES = 4096, 2**20
#: Tags of the sides of a tile.
TILE_SIDES = (322, 323)
#: Types of whole numbers and their bytes. Values of other types are passed over.
WHOLE_NUMBERS = {1: 1, 3: 2, 4: 4, 16: 8}
#: Types whose values are bytes, such as texts and color profiles. Their number is bounded by the file.
BYTE_TYPES = (1, 2, 6, 7)
CLASSIC, BIG = 42, 43


def tile_pixels(data: bytes) -> int:
    """The number of pixels in a tile of a TIFF.

    Args:
        data: Content of the file.

    Returns:
        Width times height of a tile; 0 for a TIFF of strips and for any other file. A strip is as wide as its picture, and
        a decoder cuts it to the height of the picture.

    Raises:
        PictureError: The directory has too many entries or values, a tag twice, or is big-endian with offsets of 64 bits,
            which Pillow misreads. The message does not name the file.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 16 or not {CLASSIC, BIG} & set(data[2:4]):
        return 0
    is_big = BIG in data[2:4]
    if is_big and order == ">":
        raise PictureError("it is a big-endian BigTIFF")
    start = struct.unpack_from(order + ("Q" if is_big else "I"), data, 8 if is_big else 4)[0]
    entry = struct.Struct(order + ("HHQ8s" if is_big else "HHI4s"))
    count_layout = struct.Struct(order + ("Q" if is_big else "H"))
    if start + count_layout.size > len(data):
        return 0  # a decoder finds no picture either
    (entries,) = count_layout.unpack_from(data, start)
    start += count_layout.size
    if entries > MAX_ENTRIES:
        raise PictureError("its directory has too many entries")
    sides: dict[int, int] = {}
    tags: set[int] = set()
    held = min(entries, (len(data) - start) // entry.size)  # a file that is cut short is refused by its decoder
    for tag, kind, values, field in entry.iter_unpack(data[start : start + held * entry.size]):
        if tag in tags:
            raise PictureError(f"it has the tag {tag} twice")
        tags.add(tag)
        if kind not in BYTE_TYPES and values > MAX_VALUES:
            raise PictureError(f"its tag {tag} has too many values")
        if tag in TILE_SIDES:
            size = WHOLE_NUMBERS.get(kind, len(field) + 1)
            if values != 1 or size > len(field):
                raise PictureError("the size of its tiles is in an unknown form")
            sides[tag] = int.from_bytes(field[:size], "little" if order == "<" else "big")
    return math.prod(sides.values()) if sides else 0
