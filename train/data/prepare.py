"""From any source of pictures to a dataset zip of the official layout: square, of one size, with the same bytes every time."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from stylert.core.atomic import atomic_file
from stylert.core.errors import DataError, InputError
from stylert.train.data.sources.detect import open_source
from stylert.train.data.sources.picture import MAX_PIXELS, Label, Picture, one_line

TRANSFORMS = ("none", "center-crop", "center-crop-wide", "pad")
#: Width to height of what center-crop-wide keeps, as of LSUN's cars.
WIDE = (4, 3)
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
#: So that a file depends on the pictures alone.
DATE = (1980, 1, 1, 0, 0, 0)
SHOWN = 5


def prepare(
    source: str | Path,
    out: str | Path,
    resolution: int,
    transform: str = "none",
    grey: bool = False,
    skip_corrupt: bool = False,
    max_images: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[int, list[str]]:
    """Write `out`, a zip of `00000/img00000000.png` and on, with labels in dataset.json if the source has any. Atomic.

    Pictures are RGB, or grey where the source's first one is or `grey` asks for it; transparency is laid over white. Returns
    how many were written, and the names of those that could not be decoded and were skipped.

    Raises:
        InputError: a resolution that is no power of two from 4 to 4096, or an unknown transform.
        DataError: a source that is damaged or unsafe, pictures that cannot be decoded without `skip_corrupt`, ones that are
            not square without a transform, labels of some pictures only.
    """
    out = Path(out)
    if not (4 <= resolution <= 4096 and resolution & (resolution - 1) == 0):
        raise InputError(f"the resolution must be a power of two from 4 to 4096, not {resolution}")
    if transform not in TRANSFORMS:
        raise InputError(f"unknown transform {transform!r}: choose one of {', '.join(TRANSFORMS)}")
    if out.suffix.lower() != ".zip":
        raise InputError(f"the dataset is a zip: {out} must end in .zip")
    if out.exists() and out.resolve() == Path(source).resolve():
        raise InputError(f"--out is the source itself: {out}")
    opened = open_source(source)
    total = opened.count if max_images is None else min(opened.count, max_images)
    labels: list[tuple[str, Label | None]] = []
    corrupt: list[str] = []
    color: str | None = "L" if grey else None
    with atomic_file(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for i, picture in enumerate(opened.pictures()):
            if i == total:
                break
            try:
                image = _decode(picture, grey)
            except DataError:
                raise
            except UnidentifiedImageError:  # whose text names an object in memory
                corrupt.append(f"{picture.name} (no image that can be recognised)")
                continue
            except Exception as e:  # decoders raise many kinds; all of them mean a picture that is damaged
                corrupt.append(f"{picture.name} ({one_line(e)})")
                continue
            color = color or image.mode
            if image.mode != color and color == "L":
                raise DataError(f"{picture.name!r} has colors and the first picture has none: add --grey to drop them")
            image = _square(image.convert(color), resolution, transform, picture.name)
            name = f"{len(labels) // 1000:05d}/img{len(labels):08d}.png"
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            archive.writestr(zipfile.ZipInfo(name, DATE), buffer.getvalue())
            labels.append((name, picture.label))
            if progress is not None:
                progress(i + 1, total)
        if corrupt and not skip_corrupt:
            more = f" and {len(corrupt) - SHOWN} more" if len(corrupt) > SHOWN else ""
            listed = ", ".join(corrupt[:SHOWN])
            raise DataError(
                f"{len(corrupt)} of {total} pictures cannot be decoded: {listed}{more}; leave them out with --skip-corrupt"
            )
        if not labels:
            raise DataError(f"{source} holds no picture that can be decoded")
        archive.writestr(zipfile.ZipInfo("dataset.json", DATE), json.dumps({"labels": _rows(source, labels)}))
    return len(labels), corrupt


def _rows(source: str | Path, labels: list[tuple[str, Label | None]]) -> list[Any] | None:
    known = sum(label is not None for _, label in labels)
    if known == 0:
        return None
    if known < len(labels):
        raise DataError(f"{source} has labels for {known} of {len(labels)} pictures: it must be all or none")
    return [list(row) for row in labels]


def _decode(picture: Picture, grey: bool) -> Image.Image:
    """RGB or L. Raises whatever the decoder raises."""
    data = picture.read()
    if isinstance(data, np.ndarray):
        image: Image.Image = Image.fromarray(data)
    else:
        with Image.open(io.BytesIO(data)) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise ValueError(f"{opened.width}x{opened.height} pixels are too many")
            if opened.mode not in MODES:
                raise ValueError(f"its pixels are of the kind {opened.mode}")
            opened.load()
            image = ImageOps.exif_transpose(opened) or opened
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("RGB")
    return image.convert("L" if grey or image.mode in ("1", "L") else "RGB")


def _square(image: Image.Image, resolution: int, transform: str, name: str) -> Image.Image:
    w, h = image.size
    size = (resolution, resolution)
    if transform == "none":
        if w != h:
            raise DataError(f"{name!r} is {w}x{h}, not square: choose a --transform, such as center-crop")
        return _resize(image, size)
    if transform == "center-crop":
        side = min(w, h)
        return _resize(_crop(image, side, side), size)
    if transform == "center-crop-wide":
        width, height = min(w, h * WIDE[0] // WIDE[1]), min(h, w * WIDE[1] // WIDE[0])
        inner = _resize(_crop(image, max(width, 1), max(height, 1)), (resolution, resolution * WIDE[1] // WIDE[0]))
    else:
        scale = resolution / max(w, h)
        inner = _resize(image, (max(round(w * scale), 1), max(round(h * scale), 1)))
    canvas = Image.new(image.mode, size)
    canvas.paste(inner, ((resolution - inner.width) // 2, (resolution - inner.height) // 2))
    return canvas


def _crop(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
