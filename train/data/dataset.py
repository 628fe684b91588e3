"""The dataset that training reads: a zip of the official StyleGAN2-ADA layout, or a folder with the same files.

It holds PNG or JPEG files of one square size and, optionally, `dataset.json` with
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
from stylert.core.progress import Progress
from stylert.models.checkpoint import SNAPSHOT_FILE
from stylert.train.data.lazy_images import LazyImages

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg"}
LABELS_FILE = "dataset.json"
MAX_CLASSES = 65536
#: Datasets of at most this many bytes of pixels are decoded once into memory: 21,000 RGB images of 256 px.
DEFAULT_MEMORY = 4 * 2**30


class ImageDataset:
    """All images of a zip or folder, in the order of their names.

    Images that fit into `memory` are decoded once. Those of a larger dataset are decoded each time they are indexed.

    Attributes:
        names: Names of the image files, sorted.
        images: uint8 `[M, C, R, R]`, an array or `LazyImages`.
        labels: float32 `[M, c_dim]`, one-hot for class indices; or None.
    """

    def __init__(
        self,
        source: str | Path,
        use_labels: bool = False,
        limit: int | None = None,
        progress: Progress | None = None,
        memory: int = DEFAULT_MEMORY,
    ) -> None:
        """Open the dataset, and read its images and labels.

        Args:
            source: The zip or folder.
            use_labels: Whether to read `dataset.json`.
            limit: Read only this many images, from the first.
            progress: Called after each image that is decoded into memory.
            memory: Bytes of pixels that may be kept in memory.

        Raises:
            DataError: The source is missing, damaged or empty, or its images differ in shape. Images that are not kept
                in memory are checked when they are indexed.
        """
        source = Path(source)
        files, read = open_files(source)
        self.names = sorted(n for n in files if Path(n).suffix.lower() in IMAGE_SUFFIXES)[:limit]
        if not self.names:
            raise DataError(f"dataset {source} holds no PNG or JPEG images")
        first = _decode(read, self.names[0], source)
        height, width, channels = first.shape
        if height != width or height & (height - 1):
            raise DataError(f"dataset {source}: images must be square with a power-of-two side, not {width}x{height}")
        shape = (len(self.names), channels, height, width)

        def image(i: int) -> np.ndarray:
            array = _decode(read, self.names[i], source)
            if array.shape != first.shape:
                raise DataError(f"dataset {source}: {self.names[i]!r} is {array.shape}, the first image is {first.shape}")
            return array.transpose(2, 0, 1)

        self.images: np.ndarray | LazyImages
        if math.prod(shape) > memory:
            self.images = LazyImages(image, shape)
        else:
            self.images = np.empty(shape, np.uint8)
            for i in range(len(self.names)):
                self.images[i] = image(i)
                if progress is not None:
                    progress("read images", i + 1, len(self.names))
        self.labels = _labels(read, files, self.names, source) if use_labels else None

    @property
    def in_memory(self) -> bool:
        """Whether all images are decoded in memory."""
        return isinstance(self.images, np.ndarray)

    @property
    def resolution(self) -> int:
        """Side of the images in pixels."""
        return self.images.shape[2]

    @property
    def c_dim(self) -> int:
        """Label dimensions; 0 without labels."""
        return 0 if self.labels is None else self.labels.shape[1]

    def __len__(self) -> int:
        return len(self.images)

    def batch_indices(self, start: int, count: int, seed: int) -> np.ndarray:
        """Part of an endless stream of image indices, in which each epoch is a new permutation of the dataset.

        The result depends on the arguments alone, so a resumed run sees the same images as an uninterrupted one.

        Args:
            start: Position in the stream.
            count: Number of indices.
            seed: Seed of the permutations.

        Returns:
            int64 `[count]`.
        """
        epochs, positions = np.divmod(np.arange(start, start + count), len(self))
        indices = []
        for epoch in np.unique(epochs):
            permutation = np.random.default_rng([seed, int(epoch)]).permutation(len(self))
            indices.append(permutation[positions[epochs == epoch]])
        return np.concatenate(indices)


def open_files(source: str | Path) -> tuple[list[str], Callable[[str], bytes]]:
    """The names of all files in a zip or folder, and a function that reads one of them.

    Raises:
        DataError: The source is missing, is neither a zip nor a folder, or is the folder of a training run.
    """
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
    except Exception as e:  # zipfile raises many types for a damaged archive
        raise DataError(f"dataset {source} cannot be read: {e}") from None
    return archive.namelist(), archive.read


def refuse_run(folder: Path, files: Iterable[str]) -> None:
    """Refuse the folder of a training run as a dataset: its images are grids of samples.

    Args:
        folder: The folder.
        files: Names of the files in it, relative to it.

    Raises:
        DataError: One of the files is a training snapshot.
    """
    for name in files:
        if Path(name).name == SNAPSHOT_FILE:
            run = (folder / name).parent
            raise DataError(f"{run} is the folder of a training run, not a dataset: name the images that it was trained on")


def _decode(read: Callable[[str], bytes], name: str, source: Path) -> np.ndarray:
    """uint8 `[H, W, 1 or 3]`."""
    try:
        with Image.open(io.BytesIO(read(name))) as image:
            array = np.asarray(image if image.mode == "L" else image.convert("RGB"))
    except Exception as e:  # Pillow raises many types for a damaged image
        raise DataError(f"dataset {source}: {name!r} cannot be decoded: {e}") from None
    return array[:, :, None] if array.ndim == 2 else array


def _labels(read: Callable[[str], bytes], files: list[str], images: list[str], source: Path) -> np.ndarray:
    """float32 `[M, c_dim]`, in the order of `images`."""
    if LABELS_FILE not in files:
        raise DataError(f"dataset {source} has no labels: {LABELS_FILE} is missing")
    try:
        label_of = dict(json.loads(read(LABELS_FILE))["labels"])
        labels = np.array([label_of[name] for name in images])
    except Exception as e:  # zipfile and json raise many types for damaged files
        raise DataError(f"dataset {source}: {LABELS_FILE} has no usable labels ({e!r})") from None
    if labels.ndim == 1 and labels.dtype.kind == "i" and labels.min() >= 0 and labels.max() < MAX_CLASSES:
        one_hot = np.zeros((len(labels), labels.max() + 1), np.float32)
        one_hot[np.arange(len(labels)), labels] = 1
        return one_hot
    if labels.ndim == 2 and labels.shape[1] and labels.dtype.kind in "if" and np.isfinite(labels).all():
        return labels.astype(np.float32)
    raise DataError(
        f"dataset {source}: the labels in {LABELS_FILE} must be class indices from 0 to {MAX_CLASSES - 1}, or vectors of one length"
    )
