"""The dataset tool for measured values: makes a zip of float32 arrays in about [-1, 1], with the names and units of their channels.

The arrays are read twice: for the range of each channel, and to be written. The same arrays give the same bytes.
"""

from __future__ import annotations

import zipfile
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from stylert.core.errors import DataError, InputError, as_path, shown, shown_name
from stylert.core.files.atomic import atomic_file
from stylert.core.files.inputs import read_file
from stylert.core.files.npy_files import DATE, npy_bytes
from stylert.core.files.outputs import ZIP_COMMENT
from stylert.core.images.channels import MAX_CHANNELS, Channel
from stylert.core.progress import Progress
from stylert.train.data.channels_file import CHANNELS_FILE, MAX_BYTES, ChannelRange, ImageKind, read_ranges
from stylert.train.data.dataset_tool import PADDED, PER_FOLDER, Converted, check_conversion, fitted
from stylert.train.data.sources.arrays import LAYOUTS, array_images

#: Greatest magnitude of a value, within float32.
MAX_VALUE = 1e30


def convert_arrays(
    source: str | Path,
    out: str | Path,
    resolution: int | tuple[int, int],
    transform: str = "none",
    layout: str = "chw",
    channels: str | Path | None = None,
    max_images: int | None = None,
    progress: Progress | None = None,
) -> Converted:
    """Write a zip of `00000/img00000000.npy` and so on, float32 `[C, H, W]`, with `channels.json`. Atomic.

    Args:
        source: Anything that `sources.arrays` reads.
        out: The zip.
        resolution: As of `dataset_tool.convert_dataset`.
        transform: How images get these proportions, one of `dataset_tool.TRANSFORMS`. A border is 0,
            the middle of each range.
        layout: Whether channels come first or last, a name of `LAYOUTS`.
        channels: File with the names, units and ranges of the channels (`channels_file.ChannelRange`). Without it, the names are
            `channel0` and so on. A channel without a range has that of the data.
        max_images: Convert only this many, from the first.
        progress: Called after each image that is written.

    Raises:
        InputError: An argument is not valid.
        DataError: The source is damaged, an image has another shape than the first, or a value is not finite.
    """
    source, out = as_path(source, "dataset", DataError), as_path(out, "dataset")
    size = check_conversion(source, out, resolution, transform, max_images)
    if not isinstance(layout, str) or layout not in LAYOUTS:
        raise InputError(f"unknown layout {shown(layout)}: choose one of {', '.join(LAYOUTS)}")
    least, greatest, total = _limits(source, layout, max_images)
    ranges = _ranges(channels, len(least))
    try:
        described = tuple(r.channel(float(a), float(b)) for r, a, b in zip(ranges, least, greatest, strict=True))
    except ValueError as e:
        raise DataError(f"{source}: {e}") from None
    with atomic_file(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for i, (name, image) in enumerate(islice(array_images(source, layout), max_images)):
            values = _transformed(_normalized(image, described), size, transform, name)
            place = f"{i // PER_FOLDER:05d}/img{i:08d}.npy"
            archive.writestr(zipfile.ZipInfo(place, DATE), npy_bytes(values))
            if progress is not None:
                progress("prepare images", i + 1, total)
        archive.writestr(zipfile.ZipInfo(CHANNELS_FILE, DATE), ImageKind(channels=described).to_json())
        archive.comment = ZIP_COMMENT
    return Converted(total, [], 0)


def _limits(source: Path, layout: str, max_images: int | None) -> tuple[np.ndarray, np.ndarray, int]:
    """The least and the greatest value of each channel, float64 `[C]`, and the number of images, all of one shape."""
    least = greatest = np.empty(0)
    count, shape = 0, None
    for name, image in islice(array_images(source, layout), max_images):
        if len(image) > MAX_CHANNELS:
            other = next(each for each in LAYOUTS if each != layout)
            raise DataError(
                f"{shown_name(name)} has {len(image)} channels as {layout}, and at most {MAX_CHANNELS} are read: is it {other}?"
            )
        if shape is not None and image.shape != shape:
            raise DataError(f"{shown_name(name)} is {list(image.shape)}, the first image is {list(shape)}")
        values = image.astype(np.float64)
        if not (np.abs(values) <= MAX_VALUE).all():
            raise DataError(
                f"{shown_name(name)} holds values that are not finite, or beyond {MAX_VALUE:g}: fill the gaps first"
            )
        low, high = values.min((1, 2)), values.max((1, 2))
        least, greatest = (low, high) if shape is None else (np.minimum(least, low), np.maximum(greatest, high))
        shape, count = image.shape, count + 1
    if not count:
        raise DataError(f"{source} holds no arrays")
    return least, greatest, count


def _ranges(channels: str | Path | None, count: int) -> tuple[ChannelRange, ...]:
    if channels is None:
        return tuple(ChannelRange(f"channel{i}") for i in range(count))
    path = as_path(channels, "file of channels")
    ranges = read_ranges(read_file(path, DataError, MAX_BYTES, "file of channels"), str(path))
    if len(ranges) != count:
        raise DataError(f"{path} describes {len(ranges)} channels, and the images have {count}")
    return ranges


def _normalized(image: np.ndarray, channels: tuple[Channel, ...]) -> np.ndarray:
    """Values in the units of the channels to about [-1, 1], float32 `[C, H, W]`."""
    scale = np.array([channel.scale for channel in channels])[:, None, None]
    offset = np.array([channel.offset for channel in channels])[:, None, None]
    return ((image.astype(np.float64) - offset) / scale).astype(np.float32)


def _transformed(values: np.ndarray, size: tuple[int, int], transform: str, name: str) -> np.ndarray:
    """Each channel at the size, `[C, H, W]`. The filter of a resampling reaches beyond the range, so it is clipped."""
    planes = []
    for plane in values:
        low, high = float(plane.min()), float(plane.max())
        resized = np.asarray(fitted(Image.fromarray(plane), size, transform, name))
        planes.append(np.clip(resized, min(low, 0.0), max(high, 0.0)) if transform in PADDED else np.clip(resized, low, high))
    return np.stack(planes)
