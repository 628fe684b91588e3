"""The dataset that training reads: a zip of the official StyleGAN2-ADA layout, or a folder with the same files.

It holds picture files of one size and, optionally, labels in `dataset.json`. With `channels.json`, pictures keep their
alpha, or the files are arrays of measured values.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from stylert.core.errors import DataError, InputError, PictureError, as_path, shown, shown_name
from stylert.core.images.channels import Channel
from stylert.core.images.pictures import decode_picture
from stylert.core.progress import Progress
from stylert.models.stylegan2.config import network_size
from stylert.train.data.channels_file import CHANNELS_FILE, ImageKind, read_image_kind
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
        images: uint8 `[M, C, R, R]`, or float32 in about [-1, 1] of measured values; an array or `LazyImages`.
        image_channels: The channels of measured values; None for pictures.
        labels: float32 `[M, c_dim]`, one-hot for class indices; or None.
    """

    image_channels: tuple[Channel, ...] | None = None

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
            if not files.images and (files.find(CHANNELS_FILE) is None or not files.arrays):
                raise DataError(f"dataset {source} holds no pictures")
        except DataError as e:
            raise _advised(e, Path(source)) from None
        kind = read_image_kind(files)
        self.image_channels = kind.channels
        self.names = (files.images if kind.channels is None else files.arrays)[:limit]
        self.labels = _dense_labels(files, self.names) if use_labels else None
        first = self._read(files, kind, 0)
        channels, height, width = first.shape
        try:
            network_size(height, width)
        except ValueError as e:
            raise DataError(f"dataset {source}: {e}") from None
        shape = (len(self.names), channels, height, width)

        def image(i: int) -> np.ndarray:
            array = self._read(files, kind, i)
            if array.shape != first.shape:
                found, expected = _as_read(array.shape, kind), _as_read(first.shape, kind)
                raise DataError(f"dataset {source}: {shown_name(self.names[i])} is {found}, the first image is {expected}")
            return array

        self.images: np.ndarray | LazyImages
        if math.prod(shape) * first.itemsize > memory:
            self.images = LazyImages(image, shape, first.dtype)
        else:
            self.images = np.empty(shape, first.dtype)
            for i in range(len(self.names)):
                self.images[i] = image(i)
                if progress is not None:
                    progress("read images", i + 1, len(self.names))
            files.close()

    def _read(self, files: ImageFiles, kind: ImageKind, i: int) -> np.ndarray:
        """Image number i, uint8 `[C, H, W]`, or float32 `[C, H, W]` of measured values."""
        name = self.names[i]
        return _decode(files, name, kind.alpha).transpose(2, 0, 1) if kind.channels is None else _values(files, name, kind)

    def require_pictures(self) -> None:
        """Raise DataError for a dataset of measured values."""
        if self.image_channels is not None:
            names = ", ".join(channel.name for channel in self.image_channels)
            raise DataError(f"this takes pictures, and the dataset holds measured values ({names})")

    @property
    def in_memory(self) -> bool:
        """Whether all images are decoded in memory."""
        return isinstance(self.images, np.ndarray)

    @property
    def resolution(self) -> int:
        """The resolution of the networks for its images, which is the side of usual square ones."""
        return network_size(*self.images.shape[2:])[0]

    @property
    def size_text(self) -> str:
        """The size of the images for messages: `64 px`, or width and height as `128x64 px`."""
        height, width = self.images.shape[2:]
        return f"{width} px" if width == height else f"{width}x{height} px"

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


def _decode(files: ImageFiles, name: str, alpha: bool) -> np.ndarray:
    """uint8 `[H, W, 1 or 3]`, or one channel more with alpha."""
    try:
        image = decode_picture(files.read_image(name), MAX_PIXELS, alpha)
    except PictureError as e:
        raise DataError(f"dataset {files.source}: {shown_name(name)} cannot be decoded: {e}") from None
    array = np.asarray(image)
    return array[:, :, None] if array.ndim == 2 else array


def _values(files: ImageFiles, name: str, kind: ImageKind) -> np.ndarray:
    """float32 `[C, H, W]`, about in [-1, 1]."""
    array, subject = files.read_array(name), f"dataset {files.source}: {shown_name(name)}"
    channels = len(kind.channels or ())
    if array.dtype != np.float32 or array.ndim != 3 or len(array) != channels or 0 in array.shape:
        raise DataError(f"{subject} is {array.dtype} {list(array.shape)}, and {CHANNELS_FILE} says float32 [{channels}, H, W]")
    if not np.isfinite(array).all():
        raise DataError(f"{subject} holds values that are not finite")
    return array


def _as_read(shape: tuple[int, ...], kind: ImageKind) -> tuple[int, ...]:
    """The shape of an image as its file has it: pictures have their channels last."""
    return (*shape[1:], shape[0]) if kind.channels is None else shape


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
