"""The idx files of MNIST and Fashion-MNIST, plain or gzipped: grey pictures of 28 px, padded to 32 px."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stylert.core.errors import DataError
from stylert.train.data.sources.packed import read_unpacked
from stylert.train.data.sources.picture import Picture, Source, check_count

#: Magic numbers of unsigned bytes in three dimensions, and in one. The last byte is the number of dimensions.
IMAGES, LABELS = 0x803, 0x801
PADDED = 32
MAX_UNPACKED = 768 * 2**20  # EMNIST, the largest, has 549 MiB


def is_idx(path: Path) -> bool:
    """Whether the name is that of an idx file of pictures."""
    return "idx3-ubyte" in path.name or "idx3.ubyte" in path.name


def idx(path: Path) -> Source:
    """The pictures of an `...-images-idx3-ubyte[.gz]`, with the labels of the `...-labels-idx1-ubyte[.gz]` beside it.

    Without a file of labels, the pictures have none.

    Raises:
        DataError: A file is damaged, or the numbers of labels and pictures differ.
    """
    images = _read(path, IMAGES)
    if images.shape[1] > PADDED or images.shape[2] > PADDED:
        raise DataError(f"{path} holds pictures of {images.shape[2]}x{images.shape[1]}; those of MNIST are 28x28")
    check_count(path, len(images))
    labels_file = _labels_file(path)
    labels = None if labels_file is None else _read(labels_file, LABELS)
    if labels is not None and len(labels) != len(images):
        raise DataError(f"{labels_file} holds {len(labels)} labels for {len(images)} pictures")
    rows, columns = PADDED - images.shape[1], PADDED - images.shape[2]
    margins = [(rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)]

    def picture(i: int) -> Picture:
        return Picture(f"{path.name}[{i}]", lambda: np.pad(images[i], margins), None if labels is None else int(labels[i]))

    def pictures() -> Iterator[Picture]:
        return map(picture, range(len(images)))

    return Source(len(images), pictures)


def _labels_file(path: Path) -> Path | None:
    """The labels beside a file of pictures, gzipped or not, or None."""
    plain = path.name.replace("images", "labels").replace("idx3", "idx1").removesuffix(".gz")
    for name in (plain, f"{plain}.gz"):
        if path.with_name(name).is_file():
            return path.with_name(name)
    return None


def _read(path: Path, magic: int) -> np.ndarray:
    dimensions = magic & 0xFF
    data = read_unpacked(path, MAX_UNPACKED)
    start = 4 + 4 * dimensions
    file_magic, *shape = struct.unpack(f">{1 + dimensions}I", data[:start].ljust(start, b"\0"))
    if file_magic != magic:
        raise DataError(f"{path} is not an idx file of bytes in {dimensions} dimensions")
    size = math.prod(shape)
    if size != len(data) - start:
        raise DataError(f"{path} declares {size} bytes and holds {len(data) - start}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
