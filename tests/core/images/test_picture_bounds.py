"""Pictures that ask a decoder for far more than they show are refused before it sees their pixels."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from stylert.core.errors import PictureError
from stylert.core.images.pictures import MAX_SIDE, decode_picture
from tests.draws import fresh


@pytest.fixture
def rng() -> np.random.Generator:
    return fresh()


def bitmap(header: int, compression: int, bits: int = 8) -> bytes:
    """A BMP of 4 x 2 pixels whose second header has this many bytes. Its run lengths, if it has any, are valid."""
    start = 14 + header + 4 * 256
    pixels = {0: bytes(range(8)), 1: b"\4\x05\0\0\4\x06\0\1", 2: b"\4\x55\0\0\4\x66\0\1"}[compression]
    first = b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start)
    second = struct.pack("<IiiHHIIiiII", header, 4, 2, 1, bits, compression, len(pixels), 0, 0, 256, 0).ljust(header, b"\0")
    palette = b"".join(bytes((i, i, i, 0)) for i in range(256))
    return first + second + palette + pixels


@pytest.mark.parametrize("header", [40, 52, 56, 64, 108, 124])
@pytest.mark.parametrize("compression", [0, 1, 2])
def test_bitmaps_that_pillow_unpacks_in_python_are_refused(header: int, compression: int) -> None:
    data = bitmap(header, compression, bits=4 if compression == 2 else 8)
    with Image.open(io.BytesIO(data), formats=["BMP"]) as image:
        is_slow = image.tile[0][0] == "bmp_rle"
    assert is_slow == (compression > 0)
    if is_slow:
        with pytest.raises(PictureError, match="run lengths"):
            decode_picture(data)
    else:
        np.testing.assert_array_equal(np.asarray(decode_picture(data)), [[4, 5, 6, 7], [0, 1, 2, 3]])


def test_the_pixels_of_a_bitmap_of_os2_are_not_taken_for_its_compression() -> None:
    """Its header has 12 bytes. Pixels stand where others name their compression."""
    pixels = bytes((9, 9, 9, 9, 1, 0, 0, 0, 9, 9, 9, 9))  # 4 x 1 of 24 bits
    data = b"BM" + struct.pack("<IHHI", 26 + 12, 0, 0, 26) + struct.pack("<IHHHH", 12, 4, 1, 1, 24) + pixels
    assert data[30:34] == b"\1\0\0\0"
    np.testing.assert_array_equal(np.asarray(decode_picture(data))[0, :, ::-1].ravel(), list(pixels))


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("form", "mode"), [("PNG", "L"), ("PNG", "RGBA"), ("TIFF", "L"), ("BMP", "L")])
def test_sides_are_bounded_beside_the_pixels(form: str, mode: str, turned: bool) -> None:
    """A row of one pixel costs a decoder as much as one of a hundred."""

    def thin(length: int) -> bytes:
        buffer = io.BytesIO()
        Image.new(mode, (length, 1) if turned else (1, length)).save(buffer, form)
        return buffer.getvalue()

    assert sorted(decode_picture(thin(MAX_SIDE)).size) == [1, MAX_SIDE]
    with pytest.raises(PictureError, match="a side has at most 65,535"):
        decode_picture(thin(MAX_SIDE + 1))


Entry = tuple[int, int, int, int]  # tag, type, number of values, value


def tiff(entries: list[Entry], content: bytes, order: str = "<", big: bool = False) -> bytes:
    """A TIFF of this directory. The value None stands for the place of the content, which follows the directory."""
    sizes = {1: "B", 3: "H", 4: "I", 16: "Q"}
    head, entry, end = ("HHHQQ", "HHQ", "Q") if big else ("HI", "HHI", "I")
    begin = 16 if big else 8
    fields = (43, 8, 0, begin, len(entries)) if big else (42, begin)
    start = (b"II" if order == "<" else b"MM") + struct.pack(order + head, *fields)
    start += b"" if big else struct.pack(order + "H", len(entries))
    width = 8 if big else 4
    place = len(start) + len(entries) * (struct.calcsize("=" + entry) + width) + width
    for tag, kind, values, value in entries:
        field = struct.pack(order + sizes[kind], place if value is None else value)
        start += struct.pack(order + entry, tag, kind, values) + field.ljust(width, b"\0")[:width]
    return start + struct.pack(order + end, 0) + content


def tiled(side: int, tile: int, order: str = "<", big: bool = False, kind: int = 4) -> tuple[list[Entry], bytes]:
    """The directory of a grey picture of one deflated tile, and its content."""
    values = np.zeros((tile, tile), np.uint8)
    values[: min(side, 251), 0] = np.arange(min(side, 251))
    content = zlib.compress(values.tobytes(), 1)
    small = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    return [*small, (322, kind, 1, tile), (323, kind, 1, tile), (324, 4, 1, None), (325, 4, 1, len(content))], content


@pytest.mark.parametrize(("order", "big", "kind"), [("<", False, 4), ("<", False, 3), (">", False, 4), ("<", True, 16)])
def test_a_tile_far_larger_than_its_picture_is_refused(order: str, big: bool, kind: int) -> None:
    fine = tiff(*tiled(16, 256, kind=kind), order, big)
    np.testing.assert_array_equal(np.asarray(decode_picture(fine))[:, 0], np.arange(16))
    with pytest.raises(PictureError, match="tiles of 9,000,000 pixels are too large for 16x16"):
        decode_picture(tiff(*tiled(16, 3000, kind=kind), order, big))


def test_a_large_picture_of_one_tile_is_read() -> None:
    """Sides of tiles are multiples of 16, so the tile reaches over the edges."""
    image = decode_picture(tiff(*tiled(2100, 2112)))
    assert image.size == (2100, 2100)
    np.testing.assert_array_equal(np.asarray(image)[:251, 0], np.arange(251))


def test_a_header_that_two_readers_may_understand_in_two_ways_is_refused() -> None:
    entries, content = tiled(16, 256)
    sides = [e for e in entries if e[0] in (322, 323)]
    for first in (False, True):
        large = [(tag, 4, 1, 3000) for tag, *_ in sides]
        twice = sorted(large + entries if first else entries + large, key=lambda e: e[0])
        with pytest.raises(PictureError, match="the tag 322 twice"):
            decode_picture(tiff(twice, content))
    for kind, values in ((16, 1), (4, 2)):
        odd = [(tag, kind, values, value) if tag == 322 else (tag, k, v, value) for tag, k, v, value in entries]
        with pytest.raises(PictureError, match="in an unknown form"):
            decode_picture(tiff(odd, content))
    with pytest.raises(PictureError, match="big-endian BigTIFF"):
        decode_picture(tiff(entries, content, ">", big=True))


def test_the_directory_of_a_tiff_is_bounded() -> None:
    entries, content = tiled(16, 256)
    with pytest.raises(PictureError, match="too many entries"):
        decode_picture(tiff(entries + [(40_000 + i, 1, 1, 0) for i in range(4096)], content))
    offsets = [(tag, kind, 2**20 + 1, value) if tag == 324 else (tag, kind, n, value) for tag, kind, n, value in entries]
    with pytest.raises(PictureError, match="its tag 324 has too many values"):
        decode_picture(tiff(offsets, content))


@pytest.mark.parametrize("options", [{}, {"big_tiff": True}, {"compression": "tiff_lzw"}, {"tiffinfo": {278: 1}}])
def test_tiffs_of_strips_are_read(options: dict, rng: np.random.Generator) -> None:
    values, buffer = rng.integers(0, 256, (40, 30, 3), np.uint8), io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF", **options)
    np.testing.assert_array_equal(np.asarray(decode_picture(buffer.getvalue())), values)
