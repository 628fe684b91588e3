"""A selection holds the chosen images, names and labels, then their mirror images. A random sample is always the same."""

import numpy as np
import pytest

from stylert.train.data.dataset import ImageDataset
from stylert.train.selection import Selection, random_sample


@pytest.fixture
def data(rng, write_dataset):
    images = {f"{i}.png": rng.integers(0, 256, (8, 8, 3), np.uint8) for i in range(9)}
    return write_dataset(images, [[f"{i}.png", i % 3] for i in range(9)])


@pytest.mark.parametrize("memory", [0, 2**20])
def test_a_selection_has_the_chosen_images_and_then_their_mirror_images(data, memory):
    dataset = ImageDataset(data, use_labels=True, memory=memory)
    whole, indices = dataset.images[:], np.array([7, 2, 5])
    selection = Selection(dataset, indices, mirror=True)
    assert (len(selection), selection.resolution, selection.c_dim) == (6, 8, 3)
    assert selection.in_memory == (memory > 0)
    expected = np.concatenate([whole[indices], whole[indices][..., ::-1]])
    np.testing.assert_array_equal(selection.images[:], expected)
    order = np.array([5, 0, 3, 3])
    np.testing.assert_array_equal(selection.images[order], expected[order])
    np.testing.assert_array_equal(selection.labels, np.tile(dataset.labels[indices], (2, 1)))
    assert selection.names == ["7.png", "2.png", "5.png"] * 2
    np.testing.assert_array_equal(dataset.images[:], whole)  # the images themselves are not flipped
    selection.load(memory=1)
    assert selection.in_memory == (memory > 0)
    selection.load()
    assert selection.in_memory
    np.testing.assert_array_equal(selection.images, expected)


def test_a_random_sample_is_the_start_of_one_permutation(data):
    whole, everything = ImageDataset(data), random_sample(data, None)
    assert sorted(everything.names) == whole.names
    assert everything.names != whole.names
    few = random_sample(data, 4)
    assert few.names == everything.names[:4]
    np.testing.assert_array_equal(few.images, everything.images[:4])
    np.testing.assert_array_equal(few.images, whole.images[[whole.names.index(n) for n in few.names]])
