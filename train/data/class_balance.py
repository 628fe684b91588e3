"""Class-balanced sampling: a dataset whose stream of batches holds each class equally often."""

from __future__ import annotations

import numpy as np

from stylert.core.errors import DataError
from stylert.train.data.dataset import ImageDataset

#: Second word of the seeds that order the classes, and the images of a class.
CLASS_STREAM, IMAGE_STREAM = 3, 4


class ClassBalanced(ImageDataset):
    """The images of a dataset, drawn in rounds. A round holds one image of each class that occurs, in random order.

    So each K consecutive images from a multiple of K have all K classes. Within a class, each image is drawn once before
    one is drawn again.
    """

    def __init__(self, dataset: ImageDataset) -> None:
        """Sort the images by class.

        Raises:
            DataError: The dataset has no labels, or labels that are no classes.
        """
        labels = dataset.labels
        if labels is None:
            raise DataError("class-balanced sampling needs labels: train with --cond")
        if not (((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all()):
            raise DataError("class-balanced sampling needs one class per image, and these labels are vectors")
        self.names, self.images, self.labels = dataset.names, dataset.images, labels
        self._in_memory = dataset.in_memory
        class_of = labels.argmax(1)
        self._members = [np.flatnonzero(class_of == k) for k in np.unique(class_of)]
        self._orders: dict[int, tuple[int, int, np.ndarray]] = {}

    @property
    def in_memory(self) -> bool:
        """Whether all images are decoded in memory."""
        return self._in_memory

    def batch_indices(self, start: int, count: int, seed: int) -> np.ndarray:
        """Part of the endless stream of image indices. It depends on the arguments alone.

        Args:
            start: Position in the stream.
            count: Number of indices.
            seed: Seed of the stream.

        Returns:
            int64 `[count]`.
        """
        rounds, places = np.divmod(np.arange(start, start + count), len(self._members))
        indices = np.empty(count, np.int64)
        for number in np.unique(rounds):
            is_in_round = rounds == number
            classes = np.random.default_rng([seed, CLASS_STREAM, int(number)]).permutation(len(self._members))
            indices[is_in_round] = [self._member(k, int(number), seed) for k in classes[places[is_in_round]]]
        return indices

    def _member(self, k: int, number: int, seed: int) -> int:
        """The image of the class at position `k` in round `number`."""
        members = self._members[k]
        epoch, place = divmod(number, len(members))
        kept = self._orders.get(k)
        if kept is None or kept[:2] != (seed, epoch):
            order = np.random.default_rng([seed, IMAGE_STREAM, int(k), epoch]).permutation(len(members))
            kept = self._orders[k] = (seed, epoch, order)
        return int(members[kept[2][place]])
