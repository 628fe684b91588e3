"""Arrays of measured values: a `.npy` or `.npz` file, or a folder or zip of `.npy` files.

An array of four dimensions holds many images, and so does one of three in a `.npy` file by itself: one channel each. Any other
array is one image, with or without a channel axis.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from stylert.core.errors import DataError, shown_line, shown_name
from stylert.core.files.inputs import read_file
from stylert.core.files.npy_files import read_npy
from stylert.train.data.image_files import MAX_ARRAY_BYTES, open_files
from stylert.train.data.sources.picture import check_count

#: Orders of the axes of an image: channels first or last.
LAYOUTS = ("chw", "hwc")


def is_arrays(path: Path) -> bool:
    """Whether a source holds arrays and no pictures."""
    if os.path.isfile(path) and path.suffix.lower() in (".npy", ".npz"):
        return True
    if not (os.path.isdir(path) or path.suffix.lower() == ".zip"):
        return False
    with closing(open_files(path)) as files:
        return bool(files.arrays) and not files.images


def array_images(path: Path, layout: str) -> Iterator[tuple[str, np.ndarray]]:
    """Every image of a source with its name, in the order of the names of the files.

    Args:
        path: The source.
        layout: A name of `LAYOUTS`.

    Yields:
        The name, and the image `[C, H, W]` in the type of the file.

    Raises:
        DataError: The source is damaged or unsafe, or an array has other dimensions.
    """
    if path.suffix.lower() == ".npy":
        array = read_npy(read_file(path, DataError, MAX_ARRAY_BYTES, "array"), str(path), DataError)
        yield from _images(array[..., None] if array.ndim == 3 and layout == "hwc" else _stack(array), path.name, path, layout)
        return
    with closing(open_files(path)) as files:
        check_count(path, len(files.arrays))
        for name in files.arrays:
            yield from _images(files.read_array(name), name, path, layout)


def _stack(array: np.ndarray) -> np.ndarray:
    """An array of three dimensions in a file by itself is a stack of images of one channel."""
    return array[:, None] if array.ndim == 3 else array


def _images(array: np.ndarray, name: str, path: Path, layout: str) -> Iterator[tuple[str, np.ndarray]]:
    if array.ndim == 2:
        array = array[None] if layout == "chw" else array[..., None]
    if array.ndim not in (3, 4) or 0 in array.shape:
        raise DataError(
            f"{path}: {shown_name(name)} is {shown_line(str(list(array.shape)))}, and not an image or a stack of images"
        )
    stack = array[None] if array.ndim == 3 else array
    for i, image in enumerate(stack):
        yield f"{name}[{i}]" if array.ndim == 4 else name, image if layout == "chw" else image.transpose(2, 0, 1)
