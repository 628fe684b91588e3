"""Picture files become pixels, by one rule for everything that reads them.

| a file holds | and becomes |
|---|---|
| grey, also with transparency or 16 bits | grey |
| any other colors, a palette too | RGB |
| transparency | laid over white, or kept where the caller asks for it |
| 16 bits per value | the upper 8 of them |
| an orientation in EXIF | turned upright |
| several pictures | the first |

Color profiles are passed over. `FORMATS` alone are read, whatever the name of a file or its content says.
"""

from __future__ import annotations

import ctypes
import functools
import io
import logging
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from stylert.core.errors import PictureError
from stylert.core.images.picture_parts import passes_over_pixels
from stylert.core.images.tiff_header import tile_pixels

#: Decoders of Pillow that may see a file. Others run programs: a PostScript file would be run by Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
#: Suffixes of the files in these formats.
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
#: Bytes of a picture file, at most.
MAX_BYTES = 256 * 2**20
#: Pixels of a picture, at most.
MAX_PIXELS = 10**8
#: The same where the decoder holds up to 16 bytes for each pixel: in WebP, and in a JPEG whose scans refine each other.
MAX_HEAVY_PIXELS = 6 * 10**7
#: The same times the scans of a JPEG, each of which passes over all pixels. Usual ones have up to ten.
MAX_SCANNED_PIXELS = 10**9
#: Pixels of a side, at most, as in JPEG. Decoders and `_over_white` do work for each row, however short it is.
MAX_SIDE = 65_535
#: Pixels of a tile in a TIFF, at most: this number, or twice those of a larger picture. Tiles reach over the edges.
MAX_SMALL_TILE, MAX_TILE_RATIO = 2**22, 2
#: Pixel formats of Pillow with 16 bits of grey.
GREY_16 = ("I;16", "I;16L", "I;16B", "I;16N")
GREY = ("1", "L", "LA", "La", *GREY_16)
COLOR = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
#: Position of the kind of colors in a PNG file, and its value for grey with transparency. Pillow widens 16 bits of it to RGBA.
PNG_COLOR_TYPE, PNG_GREY_ALPHA = 25, 4
#: Rows that are laid over white at once, which bounds the memory.
ROWS = 64
#: Characters of a library's message that are shown.
MAX_MESSAGE = 200

# Remarks of Pillow on a picture are not for the terminal of a command. Filters of the user come before this one.
warnings.filterwarnings("ignore", module=r"PIL\.", append=True)
logging.getLogger("PIL").addHandler(logging.NullHandler())


def decode_picture(data: bytes, max_pixels: int = MAX_PIXELS, alpha: bool = False) -> Image.Image:
    """The picture in a file, in mode L or RGB, by the rule of this module.

    Args:
        data: Content of the file.
        max_pixels: Number of pixels that is allowed. It is compared before any pixel is decoded.
        alpha: Whether transparency is kept: the mode is then LA or RGBA, also for a picture without transparency.

    Raises:
        PictureError: The file cannot be decoded. The message does not name it.
    """
    scans, tile = passes_over_pixels(data), tile_pixels(data)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            is_heavy = image.format == "WEBP" or "progressive" in image.info
            if image.width * image.height > (min(max_pixels, MAX_HEAVY_PIXELS) if is_heavy else max_pixels):
                raise PictureError(f"{image.width}x{image.height} pixels are too many")
            if max(image.size) > MAX_SIDE:
                raise PictureError(f"{image.width}x{image.height} pixels: a side has at most {MAX_SIDE:,}")
            if tile > max(MAX_SMALL_TILE, min(MAX_TILE_RATIO * image.width * image.height, max_pixels)):
                raise PictureError(f"its tiles of {tile:,} pixels are too large for {image.width}x{image.height}")
            if image.width * image.height * scans > MAX_SCANNED_PIXELS:
                raise PictureError(f"{scans} scans are too many for its pixels")
            is_grey = image.mode in GREY or _is_grey_png(image, data)
            if not is_grey and image.mode not in COLOR:
                raise PictureError(f"its pixels are of the kind {image.mode}")
            if image.format == "TIFF":
                _silence_libtiff()
            image.load()
            # Pillow's own functions copy all pixels also where they change none, and a picture may have 512 MiB of them.
            upright = _eight_bits(image)
            ImageOps.exif_transpose(upright, in_place=True)
            if alpha:
                return _with_alpha(upright, "LA" if is_grey else "RGBA")
            flat, mode = _over_white(upright), "L" if is_grey else "RGB"
            return flat if flat.mode == mode else flat.convert(mode)
    except PictureError:
        raise
    except UnidentifiedImageError:  # its text names an object in memory
        raise PictureError("no image that can be recognised") from None
    except MemoryError:
        raise PictureError("there is too little memory for its pixels") from None
    except Exception as e:  # Pillow raises many types for a damaged file
        raise PictureError(one_line_message(e)) from None


def one_line_message(error: Exception) -> str:
    """The message of a library's exception, shortened to a part of one line."""
    return " ".join(str(error).split())[:MAX_MESSAGE] or type(error).__name__


@functools.cache
def _silence_libtiff() -> None:
    """Keep libtiff from printing its errors and warnings on the terminal. Pillow raises an exception for each error.

    libtiff has one handler of each kind for the process. To set it once is safe beside other threads. To redirect the file
    descriptor of stderr would also lose what they print. A Pillow without libtiff has no such functions.
    """
    library = ctypes.CDLL(Image.core.__file__)
    for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
        if hasattr(library, name):
            getattr(library, name)(None)


def _is_grey_png(image: Image.Image, data: bytes) -> bool:
    """Whether a PNG holds grey that Pillow reads in a color mode, or with 32 bits (its versions before 11)."""
    return image.format == "PNG" and (image.mode == "I" or data[PNG_COLOR_TYPE] == PNG_GREY_ALPHA)


def _eight_bits(image: Image.Image) -> Image.Image:
    """The same picture with 8 bits per value. Values of colors are cut to 8 bits by Pillow, in the same way."""
    if image.mode not in (*GREY_16, "I"):
        return image
    values = np.asarray(image)
    narrow = Image.fromarray((values >> 8).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is not None:
        narrow.putalpha(Image.fromarray(np.where(values == transparent, np.uint8(0), np.uint8(255))))
    narrow.getexif().update(image.getexif())
    return narrow


def _with_alpha(image: Image.Image, mode: str) -> Image.Image:
    """The picture with its transparency, in mode LA or RGBA."""
    if image.mode == mode:
        return image
    if image.mode == "La":
        image = image.convert("LA")
    # Pillow knows the transparent color of a grey or RGB picture only on the way to RGBA.
    full = image.convert("RGBA")
    return full if mode == "RGBA" else Image.merge("LA", (full.getchannel("R"), full.getchannel("A")))


def _over_white(image: Image.Image) -> Image.Image:
    """The picture in a mode without transparency."""
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode not in ("LA", "PA", "RGBA", "RGBa") and "transparency" not in image.info:
        return image
    result = Image.new("RGB", image.size)
    for top in range(0, image.height, ROWS):
        rows = image.crop((0, top, image.width, min(top + ROWS, image.height))).convert("RGBA")
        result.paste(Image.alpha_composite(Image.new("RGBA", rows.size, "white"), rows).convert("RGB"), (0, top))
    return result
