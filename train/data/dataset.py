"""The dataset that training reads: a zip of the official StyleGAN2-ADA layout, or a folder with the same files.

It holds picture files of one square size and, optionally, labels in `dataset.json`.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from stylert.core.errors import DataError, InputError, PictureError, as_path, shown, shown_name
from stylert.core.images.pictures import decode_picture
from stylert.core.progress import Progress
from stylert.train.data.image_files import ImageFiles, open_files
from stylert.train.data.labels import LABELS_FILE, read_labels
from stylert.train.data.lazy_images import LazyImages

#: Pixels of an image, at most: those of the largest network.
MAX_PIXELS = 4096**2
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
            InputError: `limit` or `memory` is no such number.
            DataError: The source is missing, damaged or empty, or its images differ in shape. Images that are not kept
                in memory are checked when they are indexed.
        """
        source = as_path(source, "dataset", DataError)
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
            raise InputError(f"limit is a whole number from 1, not {shown(limit)}")
        if not isinstance(memory, int | float) or not memory >= 0:
            raise InputError(f"memory is a number of bytes, not {shown(memory)}")
        try:
            files = open_files(source)
            if not files.images:
                raise DataError(f"dataset {source} holds no pictures")
        except DataError as e:
            raise _advised(e, Path(source)) from None
        self.names = files.images[:limit]
        self.labels = _dense_labels(files, self.names) if use_labels else None
        first = _decode(files, self.names[0])
        height, width, channels = first.shape
        if height != width or height & (height - 1):
            raise DataError(f"dataset {source}: images must be square with a power-of-two side, not {width}x{height}")
        shape = (len(self.names), channels, height, width)

        def image(i: int) -> np.ndarray:
            array = _decode(files, self.names[i])
            if array.shape != first.shape:
                raise DataError(
                    f"dataset {source}: {shown_name(self.names[i])} is {array.shape}, the first image is {first.shape}"
                )
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
            files.close()

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


def _advised(error: DataError, source: Path) -> DataError:
    """The error, or a better one for a source that the dataset tool reads."""
    from stylert.train.data.sources.detect import kind_to_convert

    try:
        kind = kind_to_convert(source)
    except OSError:
        kind = None
    if kind is None:
        return error
    return DataError(f"{source} is {kind}: make a zip of it with stylert dataset {source} --out data.zip, and train on that")


def _decode(files: ImageFiles, name: str) -> np.ndarray:
    """uint8 `[H, W, 1 or 3]`."""
    try:
        image = decode_picture(files.read_image(name), MAX_PIXELS)
    except PictureError as e:
        raise DataError(f"dataset {files.source}: {shown_name(name)} cannot be decoded: {e}") from None
    array = np.asarray(image)
    return array[:, :, None] if array.ndim == 2 else array


def _dense_labels(files: ImageFiles, images: list[str]) -> np.ndarray:
    """float32 `[M, c_dim]`, in the order of `images`."""
    labels = read_labels(files, images)
    if labels is None:
        where = "is missing" if files.find(LABELS_FILE) is None else "says null"
        raise DataError(f"dataset {files.source} has no labels, so no network can be trained on them: {LABELS_FILE} {where}")
    if labels.ndim == 2:
        return labels.astype(np.float32)
    one_hot = np.zeros((len(labels), labels.max() + 1), np.float32)
    one_hot[np.arange(len(labels)), labels] = 1
    return one_hot
