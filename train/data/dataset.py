"""Training images: official StyleGAN2-ADA zips, or a folder of the same layout.

A dataset is PNG or JPEG files of one square size and, optionally, `dataset.json` with
`{"labels": [[name, class index or vector], ...]}`.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from stylert.core.errors import DataError
from stylert.models.checkpoint import SNAPSHOT_FILE
from stylert.train.data.on_demand import OnDemand

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg"}
MAX_CLASSES = 65536
#: Bytes of pixels that are kept decoded: 21,000 images of 256 px.
MEMORY = 4 * 2**30


class ImageDataset:
    """All images of a zip or folder: decoded once into memory as uint8 or, where they would take more than `memory` bytes,
    each time that they are wanted.

    Attributes:
        images: `[M, C, R, R]` uint8, an array or what can be indexed as one.
        labels: `[M, c_dim]` float32 (one-hot for class indices), or None.

    Raises DataError when the source is missing, damaged, empty or of mixed shapes; an image that is not kept in memory is
    found damaged or of another shape when it is wanted.
    """

    def __init__(
        self,
        source: str | Path,
        use_labels: bool = False,
        limit: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        memory: int = MEMORY,
    ) -> None:
        source = Path(source)
        names, read = open_files(source)
        self.names = sorted(n for n in names if Path(n).suffix.lower() in IMAGE_SUFFIXES)[:limit]
        if not self.names:
            raise DataError(f"dataset {source} holds no PNG or JPEG images")
        first = _decode(read, self.names[0], source)
        if first.shape[0] != first.shape[1] or first.shape[0] & (first.shape[0] - 1):
            raise DataError(
                f"dataset {source}: images must be square with a power-of-two side, not {first.shape[1]}x{first.shape[0]}"
            )
        shape = (len(self.names), first.shape[2], *first.shape[:2])

        def image(i: int) -> np.ndarray:
            found = _decode(read, self.names[i], source)
            if found.shape != first.shape:
                raise DataError(f"dataset {source}: {self.names[i]!r} is {found.shape}, the first image is {first.shape}")
            return found.transpose(2, 0, 1)

        self.images: np.ndarray | OnDemand
        if math.prod(shape) > memory:
            self.images = OnDemand(image, shape)
        else:
            self.images = np.empty(shape, np.uint8)
            for i in range(len(self.names)):
                self.images[i] = image(i)
                if progress is not None:
                    progress(i + 1, len(self.names))
        self.labels = _labels(read, names, self.names, source) if use_labels else None

    @property
    def in_memory(self) -> bool:
        return isinstance(self.images, np.ndarray)

    @property
    def resolution(self) -> int:
        return self.images.shape[2]

    @property
    def c_dim(self) -> int:
        return 0 if self.labels is None else self.labels.shape[1]

    def __len__(self) -> int:
        return len(self.images)

    def batch_indices(self, start: int, count: int, seed: int) -> np.ndarray:
        """Indices of images number `start` to `start + count` of an endless stream of shuffled epochs.

        A pure function of its arguments, so a resumed run sees the images that it would have seen.
        """
        position = np.arange(start, start + count)
        return np.concatenate(
            [
                np.random.default_rng([seed, int(epoch)]).permutation(len(self))[
                    position[position // len(self) == epoch] % len(self)
                ]
                for epoch in np.unique(position // len(self))
            ]
        )


def open_files(source: str | Path) -> tuple[list[str], Callable[[str], bytes]]:
    """Names of the files in a zip or folder, and what reads one. DataError when it is missing, no archive, or holds a run."""
    source = Path(source)
    if not source.exists():
        raise DataError(f"dataset {source} does not exist")
    try:
        if source.is_dir():
            files = [p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file()]
            refuse_run(source, files)
            return files, lambda name: (source / name).read_bytes()
        archive = zipfile.ZipFile(source)
    except DataError:
        raise
    except Exception as e:  # zipfile raises many kinds; all of them mean a bad archive
        raise DataError(f"dataset {source} cannot be read: {e}") from None
    return archive.namelist(), archive.read


def refuse_run(folder: Path, files: Iterable[str]) -> None:
    """Raises DataError where a folder with these files holds a training run: its pictures are grids of samples."""
    for name in files:
        if Path(name).name == SNAPSHOT_FILE:
            run = (folder / name).parent
            raise DataError(f"{run} is the folder of a training run, not a dataset: name the images that it was trained on")


def _decode(read: Callable[[str], bytes], name: str, source: Path) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(read(name))) as image:
            array = np.asarray(image if image.mode == "L" else image.convert("RGB"))
    except Exception as e:  # Pillow raises many kinds; all of them mean a bad image
        raise DataError(f"dataset {source}: {name!r} cannot be decoded: {e}") from None
    return array[:, :, None] if array.ndim == 2 else array


def _labels(read: Callable[[str], bytes], names: list[str], images: list[str], source: Path) -> np.ndarray:
    if "dataset.json" not in names:
        raise DataError(f"dataset {source} has no labels: dataset.json is missing")
    try:
        table = dict(json.loads(read("dataset.json"))["labels"])
        values = np.array([table[n] for n in images])
    except Exception as e:  # an archive raises many kinds; all of them mean labels that cannot be read
        raise DataError(f"dataset {source}: dataset.json has no usable labels ({e!r})") from None
    if values.ndim == 1 and values.dtype.kind == "i" and values.min() >= 0 and values.max() < MAX_CLASSES:
        one_hot = np.zeros((len(values), values.max() + 1), np.float32)
        one_hot[np.arange(len(values)), values] = 1
        return one_hot
    if values.ndim == 2 and values.shape[1] and values.dtype.kind in "if" and np.isfinite(values).all():
        return values.astype(np.float32)
    raise DataError(
        f"dataset {source}: the labels in dataset.json must be class indices from 0 to {MAX_CLASSES - 1}, or vectors of one length"
    )
