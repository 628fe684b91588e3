"""Readers of attributes: those that tell an attribute are told from those of chance."""

import numpy as np
import pytest

from stylert.core.ridge import correlation
from stylert.train.disentanglement.attributes import PartReader, ScoreReader, share_with
from stylert.train.metrics.coverage import PartClassifier


def test_scores_that_the_features_tell_are_read_and_others_are_marked(rng):
    features = rng.normal(size=(150, 10))
    told = features @ rng.normal(size=10) + 3
    scores = {"told": told, "chance": rng.normal(size=150), "partly": np.where(np.arange(150) < 60, told, np.nan)}
    reader = ScoreReader(lambda images: images, features, scores)
    assert [a.readable for a in reader.attributes] == [True, False, True]
    new = rng.normal(size=(20, 10))
    values = reader(new)
    np.testing.assert_allclose(values[:, 0], values[:, 2], atol=1e-2)
    assert correlation(values[:, 0], new @ (reader.planes[:-1, 0])) == pytest.approx(1)


def test_two_scores_divide_images_as_they_are_and_others_in_halves():
    assert share_with(np.array([0.0, 0, 0, 1])) == 0.25
    assert share_with(np.array([5.0, 7, 7, 7])) == 0.75
    assert share_with(np.array([1.0, 2, 3, 9])) == 0.5


def test_a_constant_correlates_with_nothing(rng):
    assert correlation(np.ones(5), rng.normal(size=5)) == 0


def test_parts_are_named_by_layer_and_their_reader_is_measured_on_held_out_images(rng):
    """Two layers: the brightness of the upper half, in three steps, and a part that is no part of the image."""
    parts = np.stack([rng.integers(0, 3, 300), rng.integers(0, 2, 300)], axis=1)
    images = rng.integers(0, 30, (300, 1, 4, 4), np.uint8)
    images[:, :, :2] += (80 * parts[:, 0]).astype(np.uint8)[:, None, None, None]
    # A line tells the ends of three steps, so each step also has a pixel of its own.
    images[np.arange(300), 0, 3, parts[:, 0]] = 255
    classifier = PartClassifier(images[:200], parts[:200])
    reader = PartReader(classifier, ("fur", "ghost"), (images[200:], parts[200:]))
    assert [a.name for a in reader.attributes] == ["fur 0", "fur 1", "fur 2", "ghost 0", "ghost 1"]
    assert [a.readable for a in reader.attributes] == [True] * 3 + [False] * 2
    values = reader(images[200:].transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(values[:, :3].argmax(1), parts[200:, 0])
