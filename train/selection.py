"""A part of a dataset: some of its images, in any order, and their mirror images."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from stylert.core.errors import DataError
from stylert.core.progress import Progress
from stylert.train.configuration.train_config import TrainConfig
from stylert.train.data.class_balance import ClassBalanced
from stylert.train.data.dataset import DEFAULT_MEMORY, ImageDataset
from stylert.train.data.lazy_images import LazyImages

BATCH = 50
#: Seed of `random_sample`.
SAMPLE_SEED = 0
#: Second word of the seed of a subset.
SUBSET_STREAM = 2


class Selection(ImageDataset):
    """Some images of a dataset, with their names and labels."""

    def __init__(self, dataset: ImageDataset, indices: np.ndarray, mirror: bool = False) -> None:
        """Select images. None is decoded or copied yet.

        Args:
            dataset: The dataset.
            indices: Indices of its images, int64 `[N]`.
            mirror: Whether the N images are followed by their N mirror images, left to right.
        """
        self.names = [dataset.names[i] for i in indices] * (2 if mirror else 1)
        self.images = _SelectedImages(dataset.images, indices, mirror)  # type: ignore[assignment]
        repeated = np.tile(indices, 2) if mirror else indices
        self.labels = None if dataset.labels is None else dataset.labels[repeated]
        self._in_memory = dataset.in_memory

    @property
    def in_memory(self) -> bool:
        """Whether all images are decoded in memory."""
        return self._in_memory

    def load(self, progress: Progress | None = None, memory: int = DEFAULT_MEMORY) -> None:
        """Decode the images once and for all, if they fit into this number of bytes."""
        if math.prod(self.images.shape) > memory:
            return
        images = np.empty(self.images.shape, self.images.dtype)
        for start in range(0, len(images), BATCH):
            end = min(start + BATCH, len(images))
            images[start:end] = self.images[start:end]
            if progress is not None:
                progress("read images", end, len(images))
        self.images, self._in_memory = images, True


class _SelectedImages:
    """Replaces an array `[N, C, H, W]` that is indexed along its first axis, by slices or index arrays."""

    def __init__(self, images: np.ndarray | LazyImages, indices: np.ndarray, mirror: bool) -> None:
        self.images, self.indices, self.dtype = images, indices, images.dtype
        self.shape = (len(indices) * (2 if mirror else 1), *images.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        positions = np.arange(len(self))[index]
        selected = self.images[self.indices[positions % len(self.indices)]]
        is_mirrored = positions >= len(self.indices)
        selected[is_mirrored] = selected[is_mirrored][..., ::-1]
        return selected


def training_images(dataset: ImageDataset, cfg: TrainConfig) -> ImageDataset:
    """The images that a run trains on: those of `cfg.subset`, and their mirror images with `cfg.mirror`.

    The seed of the run decides the subset, so a resumed run has the same one. With `cfg.class_balanced`, the stream of the
    result draws each class of these images equally often.

    Raises:
        DataError: The dataset has fewer images than the subset, or no classes to balance.
    """
    selected = _selected(dataset, cfg)
    return ClassBalanced(selected) if cfg.class_balanced else selected


def _selected(dataset: ImageDataset, cfg: TrainConfig) -> ImageDataset:
    if cfg.subset is None and not cfg.mirror:
        return dataset
    count = len(dataset) if cfg.subset is None else cfg.subset
    if count > len(dataset):
        raise DataError(f"the dataset has {len(dataset)} images, which is fewer than the subset of {count}")
    order = np.random.default_rng([cfg.seed, SUBSET_STREAM]).permutation(len(dataset))
    return Selection(dataset, np.sort(order[:count]), cfg.mirror)


def random_sample(source: str | Path, count: int | None, progress: Progress | None = None) -> ImageDataset:
    """Random images of a dataset without labels, always the same ones. Only these are decoded.

    Args:
        source: The zip or folder.
        count: Number of images; None for all.
        progress: Called while images are decoded into memory.

    Raises:
        DataError: As for `ImageDataset`. Or the dataset holds measured values and no pictures.
    """
    dataset = ImageDataset(source, memory=0)
    dataset.require_pictures()
    sample = Selection(dataset, np.random.default_rng(SAMPLE_SEED).permutation(len(dataset))[:count])
    sample.load(progress)
    return sample
