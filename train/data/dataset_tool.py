"""The dataset tool: makes a zip of the official layout from any source of pictures.

All pictures get one size. The same pictures give the same bytes.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from stylert.core.errors import DataError, InputError, PictureError, as_path, shown, shown_line, shown_name
from stylert.core.files.atomic import atomic_file
from stylert.core.files.outputs import ZIP_COMMENT
from stylert.core.images.pictures import decode_picture
from stylert.core.progress import Progress
from stylert.models.stylegan2.config import network_size
from stylert.train.data.channels_file import CHANNELS_FILE, ImageKind
from stylert.train.data.labels import LABELS_FILE, MAX_CLASSES
from stylert.train.data.sources.detect import open_source
from stylert.train.data.sources.picture import Label, Picture

TRANSFORMS = ("none", "center-crop", "center-crop-wide", "pad")
#: Those that can give an image a border.
PADDED = ("center-crop-wide", "pad")
#: Width to height of the region that center-crop-wide keeps, as for the cars of LSUN.
WIDE = (4, 3)
#: Every file in the zip gets this date, so that the bytes depend on the pictures alone.
DATE = (1980, 1, 1, 0, 0, 0)
PER_FOLDER = 1000
#: Number of damaged pictures that an error message names.
MAX_NAMED = 5


class Converted(NamedTuple):
    """The result of a conversion.

    Attributes:
        images: Number of images written.
        skipped: Names of the pictures that were left out, each with the reason.
        c_dim: Label dimensions: the number of classes, or the length of the vectors. 0 without labels.
    """

    images: int
    skipped: list[str]
    c_dim: int


def convert_dataset(
    source: str | Path,
    out: str | Path,
    resolution: int | tuple[int, int],
    transform: str = "none",
    grey: bool = False,
    skip_corrupt: bool = False,
    max_images: int | None = None,
    progress: Progress | None = None,
    alpha: bool = False,
) -> Converted:
    """Write a zip of `00000/img00000000.png` and so on, with `dataset.json` if the source has labels. Atomic.

    Pictures are decoded by the rule of `core.images.pictures`. They become RGB, or grey if the first picture is grey.

    Args:
        source: Anything that `sources.detect.open_source` reads.
        out: The zip.
        resolution: Side of square images, a power of two from 4 to 4096. Or width and height of images for which
            `models.stylegan2.config.network_size` has a network.
        transform: How pictures get these proportions, one of `TRANSFORMS`. With none, they must have them.
        grey: Whether to drop the colors.
        skip_corrupt: Whether to leave out pictures that cannot be decoded.
        max_images: Convert only this many, from the first.
        progress: Called after each picture.
        alpha: Whether to keep transparency as one more channel, which `channels.json` then says. Otherwise it is laid over white.

    Raises:
        InputError: An argument is not valid.
        DataError: The source is damaged or unsafe, a picture has other proportions without a transform, only some pictures have
            labels, or pictures are damaged without `skip_corrupt`.
    """
    out = as_path(out, "dataset")
    size = check_conversion(as_path(source, "dataset", DataError), out, resolution, transform, max_images)
    labels: list[tuple[str, Label | None]] = []
    corrupt: list[str] = []
    grey_mode, color_mode = ("LA", "RGBA") if alpha else ("L", "RGB")
    mode: str | None = grey_mode if grey else None
    with (
        closing(open_source(source)) as opened,
        atomic_file(out) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
    ):
        total = opened.count if max_images is None else min(opened.count, max_images)
        for i, picture in enumerate(opened.pictures()):
            if i == total:
                break
            try:
                image = _decode(picture, alpha)
            except PictureError as e:
                corrupt.append(f"{shown_line(picture.name)} ({e})")
                continue
            mode = mode or image.mode
            if image.mode == color_mode and mode == grey_mode and not grey:
                raise DataError(
                    f"{shown_name(picture.name)} has colors and the first picture has none: add --grey to drop them"
                )
            image = fitted(image.convert(mode), size, transform, picture.name)
            name = f"{len(labels) // PER_FOLDER:05d}/img{len(labels):08d}.png"
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            archive.writestr(zipfile.ZipInfo(name, DATE), buffer.getvalue())
            labels.append((name, _checked_label(picture)))
            if progress is not None:
                progress("prepare images", i + 1, total)
        if corrupt and not skip_corrupt:
            raise DataError(_corrupt_message(corrupt, total))
        if not labels:
            raise DataError(f"{source} holds no picture that can be decoded")
        rows = _label_rows(source, labels)
        archive.writestr(zipfile.ZipInfo(LABELS_FILE, DATE), json.dumps({"labels": rows}))
        if alpha:
            archive.writestr(zipfile.ZipInfo(CHANNELS_FILE, DATE), ImageKind(alpha=True).to_json())
        archive.comment = ZIP_COMMENT
    return Converted(len(labels), corrupt, _c_dim(rows))


def check_conversion(
    source: str | Path, out: Path, resolution: int | tuple[int, int], transform: str, max_images: int | None
) -> tuple[int, int]:
    """The width and height of the images. Raises InputError unless these are arguments of a conversion."""
    if max_images is not None and (type(max_images) is not int or max_images < 1):
        raise InputError(f"max_images is a whole number from 1, not {shown(max_images)}")
    size = _size(resolution)
    if not isinstance(transform, str) or transform not in TRANSFORMS:
        raise InputError(f"unknown transform {shown(transform)}: choose one of {', '.join(TRANSFORMS)}")
    if transform == "center-crop-wide" and size[0] != size[1]:
        raise InputError("the transform center-crop-wide is for square images: use center-crop")
    if out.suffix.lower() != ".zip":
        raise InputError(f"the dataset is a zip: {out} must end in .zip")
    if out.exists() and os.path.exists(source) and os.path.samefile(out, source):
        raise InputError(f"--out is the source itself: {out}")
    return size


def _size(resolution: int | tuple[int, int]) -> tuple[int, int]:
    """Width and height. Raises InputError unless a network has images of this size."""
    if type(resolution) is int and 4 <= resolution <= 4096 and resolution & (resolution - 1) == 0:
        return resolution, resolution
    if not isinstance(resolution, tuple) or len(resolution) != 2 or any(type(side) is not int for side in resolution):
        raise InputError(f"the resolution must be a power of two from 4 to 4096, or width and height, not {shown(resolution)}")
    try:
        network_size(resolution[1], resolution[0])
    except ValueError as e:
        raise InputError(f"the resolution {resolution[0]}x{resolution[1]}: {e}") from None
    return resolution


def _corrupt_message(corrupt: list[str], total: int) -> str:
    named = ", ".join(corrupt[:MAX_NAMED])
    more = f" and {len(corrupt) - MAX_NAMED} more" if len(corrupt) > MAX_NAMED else ""
    return f"{len(corrupt)} of {total} pictures cannot be decoded: {named}{more}; leave them out with --skip-corrupt"


def _label_rows(source: str | Path, labels: list[tuple[str, Label | None]]) -> list[Any] | None:
    """The rows of `dataset.json`, or None without labels."""
    labelled = sum(label is not None for _, label in labels)
    if labelled == 0:
        return None
    if labelled < len(labels):
        raise DataError(f"{source} has labels for {labelled} of {len(labels)} pictures: it must be all or none")
    return [list(row) for row in labels]


def _checked_label(picture: Picture) -> Label | None:
    """The label of the picture. Raises DataError for a class that training cannot read."""
    if isinstance(picture.label, int) and not 0 <= picture.label < MAX_CLASSES:
        raise DataError(
            f"the label {picture.label} of {shown_name(picture.name)} is no class index from 0 to {MAX_CLASSES - 1}"
        )
    return picture.label


def _c_dim(rows: list[Any] | None) -> int:
    """Label dimensions of rows of one kind."""
    if rows is None:
        return 0
    return len(rows[0][1]) if isinstance(rows[0][1], list) else max(label for _, label in rows) + 1


def _decode(picture: Picture, alpha: bool) -> Image.Image:
    """The picture in mode RGB or L, or RGBA or LA with alpha. Raises PictureError."""
    data = picture.read()
    if not isinstance(data, np.ndarray):
        return decode_picture(data, alpha=alpha)
    image = Image.fromarray(data)
    return image.convert({"L": "LA", "RGB": "RGBA"}[image.mode]) if alpha else image


def fitted(image: Image.Image, size: tuple[int, int], transform: str, name: str) -> Image.Image:
    """The image at a size, after the transform.

    Args:
        image: An image in mode L, LA, RGB, RGBA or F.
        size: Width and height of the result.
        transform: One of `TRANSFORMS`.
        name: Name of the picture, for messages.

    Raises:
        DataError: The image has other proportions, and the transform is `none`.
    """
    (width, height), (out_width, out_height) = image.size, size
    if transform == "none":
        if width * out_height != height * out_width:
            shape = "square" if out_width == out_height else f"of the proportions of {out_width}x{out_height}"
            raise DataError(f"{shown_name(name)} is {width}x{height}, not {shape}: choose a --transform, such as center-crop")
        return _resize(image, size)
    if transform == "center-crop":
        crop_width = max(min(width, height * out_width // out_height), 1)
        crop_height = max(min(height, width * out_height // out_width), 1)
        return _resize(_center_crop(image, crop_width, crop_height), size)
    if transform == "center-crop-wide":
        crop_width = max(min(width, height * WIDE[0] // WIDE[1]), 1)
        crop_height = max(min(height, width * WIDE[1] // WIDE[0]), 1)
        cropped = _center_crop(image, crop_width, crop_height)
        return _pad(_resize(cropped, (out_width, out_width * WIDE[1] // WIDE[0])), size)
    scale = min(out_width / width, out_height / height)
    return _pad(_resize(image, (max(round(width * scale), 1), max(round(height * scale), 1))), size)


def _center_crop(image: Image.Image, width: int, height: int) -> Image.Image:
    if image.size == (width, height):
        return image  # Pillow would copy all pixels
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _pad(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image in the middle of a larger one that is black, and transparent with alpha."""
    canvas = Image.new(image.mode, size)
    canvas.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return canvas


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
