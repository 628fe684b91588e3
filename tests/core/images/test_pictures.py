"""Picture files become pixels by one rule, and no file chooses its decoder."""

from __future__ import annotations

import ast
import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stylert.core.errors import PictureError
from stylert.core.images.pictures import FORMATS, decode_picture
from tests.draws import fresh

ROOT = Path(__file__).parents[3]
FOLDERS = ("core", "plugins", "models", "train", "runtime", "export", "benchmarks", "cli", "examples")


def encoded(image: Image.Image, form: str = "png", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def decoded(data: bytes, mode: str) -> np.ndarray:
    image = decode_picture(data)
    assert image.mode == mode
    return np.asarray(image)


def over_white(values: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The blend in float64."""
    a = alpha / 255.0
    return values * a + 255 * (1 - a)


@pytest.fixture
def rng() -> np.random.Generator:
    return fresh()


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_opening_of_a_picture_names_its_formats(folder: str) -> None:
    faults = []
    for file in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Image.open"):
                named = [k.arg for k in node.keywords]
                faults += [] if "formats" in named else [f"{file.relative_to(ROOT)}:{node.lineno}"]
    assert not faults


def test_a_postscript_program_is_no_picture() -> None:
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n{ } loop\nshowpage\n"
    with pytest.raises(PictureError, match="no image that can be recognised"):
        decode_picture(program)


@pytest.mark.parametrize("form", ["eps", "ppm", "ico", "tga", "pcx", "dds", "jpeg2000", "pdf"])
def test_other_formats_are_refused(form: str) -> None:
    with pytest.raises(PictureError, match="no image that can be recognised"):
        decode_picture(encoded(Image.new("RGB", (16, 16)), form))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_eight_bits_are_kept(rng: np.random.Generator, form: str, mode: str) -> None:
    image = Image.fromarray(rng.integers(0, 256, (8, 12) if mode == "L" else (8, 12, 3), np.uint8))
    data = encoded(image, form, **({"lossless": True} if form == "WEBP" else {}))
    kept = "RGB" if form in ("WEBP", "GIF") else mode  # WebP has no grey, GIF has palettes
    expected = Image.open(io.BytesIO(data), formats=(form,)).convert(kept)
    np.testing.assert_array_equal(decoded(data, kept), np.asarray(expected))


@pytest.mark.parametrize("form", ["png", "tiff"])
def test_sixteen_bits_of_grey_keep_the_upper_eight(rng: np.random.Generator, form: str) -> None:
    values = rng.integers(0, 65536, (8, 12)).astype(np.uint16)
    values[0, :2] = 0, 65535
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(values), form), "L"), values // 256)


def png(color_type: int, values: np.ndarray) -> bytes:
    """A PNG file with 16 bits per value, written by hand. Pillow writes grey of 16 bits alone."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, color_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_sixteen_bits_of_color_keep_the_upper_eight(rng: np.random.Generator) -> None:
    values = rng.integers(0, 65536, (8, 12, 3))
    np.testing.assert_array_equal(decoded(png(2, values), "RGB"), values // 256)


def test_sixteen_bits_of_grey_with_transparency_are_grey_over_white(rng: np.random.Generator) -> None:
    values = rng.integers(0, 65536, (8, 12, 2))
    expected = over_white(values[..., 0] // 256, values[..., 1] // 256)
    assert np.abs(decoded(png(4, values), "L") - expected).max() <= 1


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_is_laid_over_white_and_hides_the_color_below(rng: np.random.Generator, mode: str) -> None:
    values = rng.integers(0, 256, (600, 4, len(mode)), np.uint8)  # more rows than are blended at once
    values[0, :, -1] = 0
    pixels = decoded(encoded(Image.fromarray(values)), mode[:-1])
    expected = over_white(values[..., :-1], values[..., -1:])
    assert np.abs(pixels.reshape(expected.shape) - expected).max() <= 1
    assert (pixels[0] == 255).all()


@pytest.mark.parametrize("bits", [8, 16])
def test_one_transparent_level_of_grey_becomes_white(bits: int) -> None:
    values = np.array([[10, 20], [30, 10]], f"uint{bits}") * (1 if bits == 8 else 257)
    pixels = decoded(encoded(Image.fromarray(values), transparency=int(values[0, 0])), "L")
    np.testing.assert_array_equal(pixels, [[255, 20], [30, 255]])


def test_a_palette_is_rgb_over_white(rng: np.random.Generator) -> None:
    image = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).quantize(8)
    np.testing.assert_array_equal(decoded(encoded(image), "RGB"), np.asarray(image.convert("RGB")))
    index = np.asarray(image)[0, 0]
    clear = decoded(encoded(image, transparency=int(index)), "RGB")
    assert (clear[np.asarray(image) == index] == 255).all()
    assert (clear[np.asarray(image) != index] == np.asarray(image.convert("RGB"))[np.asarray(image) != index]).all()


@pytest.mark.parametrize("form", ["png", "tiff"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_the_orientation_of_exif_is_applied(rng: np.random.Generator, form: str, dtype: str) -> None:
    values = rng.integers(0, np.iinfo(dtype).max + 1, (8, 12)).astype(dtype)
    exif = Image.Exif()
    exif[0x112] = 6  # a quarter turn clockwise
    expected = np.rot90(values if dtype == "uint8" else values // 256, -1)
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(values), form, exif=exif), "L"), expected)


def test_an_animation_shows_its_first_picture() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    pixels = decoded(encoded(frames[0], "gif", save_all=True, append_images=frames[1:]), "RGB")
    np.testing.assert_array_equal(pixels, np.asarray(frames[0]))


def test_pixels_without_a_rule_and_too_many_pixels_are_refused() -> None:
    with pytest.raises(PictureError, match="of the kind F"):
        decode_picture(encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "tiff"))
    with pytest.raises(PictureError, match="40x40 pixels are too many"):
        decode_picture(encoded(Image.new("L", (40, 40))), max_pixels=1599)
    assert decode_picture(encoded(Image.new("L", (40, 40))), max_pixels=1600).size == (40, 40)


def test_a_huge_picture_is_refused_before_it_is_unpacked() -> None:
    data = bytearray(encoded(Image.new("L", (8, 8))))
    data[16:24] = struct.pack(">II", 100_000, 100_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(PictureError):
        decode_picture(bytes(data))


def test_damage_is_one_line(rng: np.random.Generator) -> None:
    data = encoded(Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)))
    for cut in (0, 1, 8, 33, 60, len(data) - 30):
        with pytest.raises(PictureError) as e:
            decode_picture(data[:cut])
        assert "\n" not in str(e.value)
        assert "object at 0x" not in str(e.value)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4", "zstd", "raw"])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL.*")
def test_no_library_prints_about_a_damaged_tiff(
    rng: np.random.Generator, compression: str, capfd: pytest.CaptureFixture[str]
) -> None:
    image = Image.fromarray(rng.integers(0, 256, (64, 64), np.uint8))
    whole = encoded(image.convert("1") if compression == "group4" else image, "tiff", compression=compression)
    refused = 0
    for _ in range(60):
        data = bytearray(whole)
        for place in rng.integers(8, len(data), 5):
            data[place] = rng.integers(256)
        try:
            decode_picture(bytes(data[: rng.integers(len(data) // 2, len(data) + 1)]))
        except PictureError:
            refused += 1
    assert refused > 10
    assert capfd.readouterr() == ("", "")


#: Prints the peak memory of decoding a file, in units of its pixels at 4 bytes.
PEAK = """
import sys
from pathlib import Path
from typing import Any
from stylert.core.machine.host import peak_memory_mib
from stylert.core.images.pictures import decode_picture
data, pixels = Path(sys.argv[1]).read_bytes(), int(sys.argv[2])
decode_picture(Path(sys.argv[3]).read_bytes())  # loads the libraries
before = peak_memory_mib()
decode_picture(data)
print((peak_memory_mib() - before) * 2**20 / (4 * pixels))
"""


@pytest.mark.parametrize(
    ("mode", "orientation", "copies"), [("RGB", 1, 1), ("RGB", 6, 2), ("RGBA", 1, 2), ("RGBA", 3, 2), ("L", 1, 0.25)]
)
def test_decoding_holds_no_more_copies_of_the_pixels_than_it_needs(
    mode: str, orientation: int, copies: float, tmp_path: Path
) -> None:
    side, exif = 4096, Image.Exif()
    exif[0x0112] = orientation
    Image.new(mode, (side, side), 77).save(tmp_path / "large.png", exif=exif, compress_level=1)
    Image.new(mode, (8, 8), 77).save(tmp_path / "small.png", exif=exif)
    command = [sys.executable, "-c", PEAK, str(tmp_path / "large.png"), str(side**2), str(tmp_path / "small.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < copies + 0.3


def png_with_chunks(name: bytes, count: int) -> bytes:
    """A PNG of one pixel with many empty chunks of this name before its pixel."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1), 7).save(buffer, "PNG")
    whole = buffer.getvalue()
    empty = struct.pack(">I4sI", 0, name, zlib.crc32(name))
    before = whole.index(b"IDAT") - 4
    return whole[:before] + empty * count + whole[before:]


@pytest.mark.parametrize("name", [b"prIv", b"IDAT", b"tEXt"])
def test_a_png_of_a_million_chunks_is_refused_before_it_is_decoded(name: bytes) -> None:
    with pytest.raises(PictureError, match="too many chunks"):
        decode_picture(png_with_chunks(name, 1_000_000))
    assert np.asarray(decode_picture(png_with_chunks(b"prIv", 500))).tolist() == [[7]]


def test_bytes_behind_the_end_of_a_picture_are_not_counted(rng: np.random.Generator) -> None:
    """Phones append a video to a JPEG, and put a small JPEG into a segment of it."""
    picture = Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8))
    behind = rng.bytes(2**20) + b"\xff\xda\0\x02" * 1000
    for form in ("JPEG", "PNG"):
        whole = encoded(picture, form)
        assert decode_picture(whole + behind).size == (32, 32)
        assert decode_picture(whole + bytes(2**20)).size == (32, 32)
    jpeg = encoded(picture, "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", 60_002) + (b"\xff\xda" * 30_000)
    assert decode_picture(jpeg[:2] + segment + jpeg[2:]).size == (32, 32)


@pytest.mark.parametrize("options", [{"format": "WEBP", "lossless": True}, {"format": "JPEG", "progressive": True}])
def test_formats_whose_decoders_need_more_memory_have_fewer_pixels(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40)).save(buffer, **options)
    monkeypatch.setattr("stylert.core.images.pictures.MAX_HEAVY_PIXELS", 1599)
    with pytest.raises(PictureError, match="40x40 pixels are too many"):
        decode_picture(buffer.getvalue())
    assert decode_picture(encoded(Image.new("RGB", (40, 40)), "JPEG")).size == (40, 40)


def test_scans_are_bounded_by_the_pixels_that_they_pass_over(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(buffer, "JPEG", progressive=True)
    monkeypatch.setattr("stylert.core.images.pictures.MAX_SCANNED_PIXELS", 40 * 40 * 5)
    with pytest.raises(PictureError, match="scans are too many for its pixels"):
        decode_picture(buffer.getvalue())
    assert decode_picture(encoded(Image.new("RGB", (40, 40)), "JPEG")).size == (40, 40)


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded(rng: np.random.Generator) -> None:
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(buffer, "JPEG", progressive=True)
    whole = buffer.getvalue()
    assert decode_picture(whole).size == (32, 32)
    last = whole.rindex(b"\xff\xda")
    with pytest.raises(PictureError, match="too many scans"):
        decode_picture(whole[:-2] + whole[last:-2] * 200 + whole[-2:])


def gif_with(before: bytes) -> bytes:
    """A GIF with these bytes before its first frame."""
    whole = encoded(Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)), "GIF")
    flags = whole[10]
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    return whole[:position] + before + whole[position:]


@pytest.mark.parametrize(
    "before", [b"!\xfe" + b"\1x" * 2**21 + b"\0", b"\0" * 2**21, (b"!\xfe\xff" + b"x" * 255 + b"\0") * 8192]
)
def test_much_before_the_frame_of_a_gif_is_refused_before_it_is_read(before: bytes) -> None:
    assert decode_picture(gif_with(b"!\xfe\5hello\0" * 100)).size == (8, 8)
    with pytest.raises(PictureError, match="too much before its pixels"):
        decode_picture(gif_with(before))


@pytest.mark.parametrize("before", [b"\xff\xfe\0\3x" * 5000, (b"\xff\xfe\xff\xff" + bytes(65_533)) * 300, b"\xff" * 10_000])
def test_much_before_the_pixels_of_a_jpeg_is_refused_before_it_is_read(before: bytes, rng: np.random.Generator) -> None:
    jpeg = encoded(Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)), "JPEG")
    assert decode_picture(jpeg[:2] + b"\xff\xfe\0\3x" * 255 + b"\xff" * 10 + jpeg[2:]).size == (32, 32)
    with pytest.raises(PictureError, match="too much before its pixels"):
        decode_picture(jpeg[:2] + before + jpeg[2:])
