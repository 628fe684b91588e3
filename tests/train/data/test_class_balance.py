"""Class-balanced sampling draws each class equally often, and the images of a class in turn."""

from collections import Counter

import numpy as np
import pytest
import torch

from stylert.core.errors import DataError
from stylert.train.data.class_balance import ClassBalanced
from stylert.train.data.dataset import ImageDataset
from stylert.train.data.loader import BatchLoader
from stylert.train.selection import Selection

SIZES = (1, 3, 7, 0, 2)
"""Images of each class. No image has class 3."""


@pytest.fixture
def dataset(rng, write_dataset):
    classes = rng.permutation(np.repeat(np.arange(len(SIZES)), SIZES))
    images = {f"{i:02d}.png": np.full((4, 4, 3), i, np.uint8) for i in range(len(classes))}
    return ImageDataset(write_dataset(images, [[f"{i:02d}.png", int(c)] for i, c in enumerate(classes)]), use_labels=True)


@pytest.mark.parametrize("mirror", [False, True])
def test_every_round_has_every_class_once_and_images_take_turns(dataset, rng, mirror):
    selection = Selection(dataset, np.arange(len(dataset)), mirror)
    balanced, seed = ClassBalanced(selection), int(rng.integers(1 << 40))
    class_of = selection.labels.argmax(1)
    rounds = 2 * 7 * 3 * 2  # every class ends an epoch here, with and without mirror images
    drawn = balanced.batch_indices(0, 4 * rounds, seed)
    assert all(sorted(r) == [0, 1, 2, 4] for r in class_of[drawn].reshape(rounds, 4).tolist())
    times = Counter(drawn.tolist())
    assert times.keys() == set(range(len(selection)))
    for index, count in times.items():
        assert count * (class_of == class_of[index]).sum() == rounds
    of_class = drawn[class_of[drawn] == 2].reshape(-1, 7 * (2 if mirror else 1))
    assert all(len(set(epoch)) == len(epoch) for epoch in of_class.tolist())
    assert len({tuple(epoch) for epoch in of_class.tolist()}) > 1


def test_a_part_of_the_stream_depends_on_its_position_and_seed_alone(dataset, rng):
    whole = ClassBalanced(dataset).batch_indices(0, 200, 5)
    used = ClassBalanced(dataset)
    for start in rng.integers(0, 150, 20):
        count = int(rng.integers(1, 50))
        np.testing.assert_array_equal(used.batch_indices(int(start), count, 5), whole[start : start + count])
    other = used.batch_indices(0, 200, 6)
    assert not np.array_equal(other, whole)
    np.testing.assert_array_equal(used.batch_indices(0, 200, 5), whole)


def test_processes_share_the_stream_without_an_image_in_two_places(dataset):
    """Process r of 2 reads images r * 3 and on of each batch of 6, as the trainer does."""
    loaders = [BatchLoader(ClassBalanced(dataset), torch.device("cpu"), 3, count, 6) for count in (6, 3, 3)]
    for batch in range(4):
        whole, *shares = (
            loader.batch(6 * batch + first)[0][:, 0, 0, 0].tolist() for loader, first in zip(loaders, (0, 0, 3), strict=True)
        )
        assert shares[0] + shares[1] == whole


def test_labels_that_are_no_classes_are_refused(dataset):
    labels = dataset.labels
    for wrong, message in ((None, "--cond"), (labels * 0.5, "vectors"), (labels * 0, "vectors"), (labels + 0.0, None)):
        dataset.labels = wrong
        if message is None:
            ClassBalanced(dataset)
        else:
            with pytest.raises(DataError, match=message):
                ClassBalanced(dataset)
