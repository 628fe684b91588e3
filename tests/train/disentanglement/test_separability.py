"""H(Y | X) of held-out images, on latents whose separability is known."""

import numpy as np
import pytest

from stylert.train.disentanglement.separability import LEAST_IMAGES, held_out_entropy


def test_an_attribute_that_a_hyperplane_separates_has_no_entropy(rng):
    latents = rng.normal(size=(1000, 12))
    assert held_out_entropy(latents, latents @ rng.normal(size=12)) == pytest.approx(0, abs=0.01)


def test_random_labels_have_the_entropy_of_a_coin_also_where_few_images_are_separable_by_chance(rng):
    """100 images of 200 dimensions: a machine separates any labels that it was fitted to."""
    many = held_out_entropy(rng.normal(size=(4000, 5)), rng.normal(size=4000))
    few = held_out_entropy(rng.normal(size=(200, 200)), rng.normal(size=200))
    assert 0.98 * np.log(2) < many <= np.log(2) + 1e-9
    assert 0.8 * np.log(2) < few <= np.log(2) + 1e-9


def test_labels_of_which_a_known_share_is_wrong_have_the_entropy_of_this_share(rng):
    latents = rng.normal(size=(8000, 3))
    margins = np.sign(latents[:, 0]) * np.where(rng.random(8000) < 0.1, -1, 1)
    expected = -(0.1 * np.log(0.1) + 0.9 * np.log(0.9))
    assert held_out_entropy(latents, margins) == pytest.approx(expected, abs=0.04)


def test_an_attribute_of_too_few_images_has_none(rng):
    latents, margins = rng.normal(size=(200, 4)), -np.ones(200)
    margins[: 2 * LEAST_IMAGES - 2] = 1
    assert held_out_entropy(latents, margins) is None
    assert held_out_entropy(latents, -margins) is None
    margins[: 2 * LEAST_IMAGES] = 1
    assert held_out_entropy(latents, margins) is not None


def test_the_scale_of_the_latents_does_not_count_and_the_seed_decides_the_folds(rng):
    latents, margins = rng.normal(size=(300, 20)), rng.normal(size=300)
    first = held_out_entropy(latents, margins, seed=3)
    assert held_out_entropy(latents, margins, seed=3) == first
    assert held_out_entropy(latents * 2.0 ** np.arange(20) + 8, margins, seed=3) == pytest.approx(first, abs=0.02)
    assert len({held_out_entropy(latents, margins, seed=seed) for seed in range(5)}) > 1
