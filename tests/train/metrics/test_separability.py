"""Linear separability: closed forms of the entropy, and attributes that a hyperplane separates or not."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stylert.train.metrics.separability import conditional_entropy, linear_separability, svm_predictions


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(*[arrays.arrays(bool, n)] * 2)))
def test_the_conditional_entropy_is_joint_minus_marginal(xy):
    x, y = xy
    joint = np.histogram2d(x, y, bins=[[-0.5, 0.5, 1.5]] * 2)[0].ravel()
    expected = scipy.stats.entropy(joint) - scipy.stats.entropy([x.sum(), (~x).sum()])
    assert conditional_entropy(x, y) == pytest.approx(expected, abs=1e-9)


def test_the_svm_separates_separable_points(rng):
    x, normal = rng.normal(size=(300, 5)), rng.normal(size=5)
    x += 0.5 * normal / np.linalg.norm(normal) * np.sign(x @ normal)[:, None]  # a gap of one between the sides
    np.testing.assert_array_equal(svm_predictions(x, x @ normal > 0), x @ normal > 0)


def test_separable_attributes_score_one(rng):
    latents = rng.normal(size=(400, 6))
    assert linear_separability(latents, latents @ rng.normal(size=(6, 3))) == pytest.approx(1, abs=1e-6)
    assert linear_separability(latents, np.ones((400, 2))) == 1


def test_each_attribute_that_no_plane_separates_raises_the_score(rng):
    latents = rng.normal(size=(2000, 2))
    ring = np.square(latents).sum(1) - np.median(np.square(latents).sum(1))
    one, two = (linear_separability(latents, np.stack([ring] * n, axis=1)) for n in (1, 2))
    assert 1.3 < one <= 2 + 1e-9  # at most the entropy of a fair coin
    assert two == pytest.approx(one**2)


def test_only_the_surest_half_counts(rng):
    """Random answers with small margins do not change the score."""
    latents = rng.normal(size=(200, 4))
    side = np.where(latents[:, 0] > 0, 1.0, -1.0) * 5
    latents[:, 0] += side
    unsure = rng.permutation(200)[:100]
    side[unsure] = rng.choice([-0.1, 0.1], 100)
    assert linear_separability(latents, side[:, None]) == pytest.approx(1, abs=1e-6)


def test_refuses_latents_and_margins_of_different_images(rng):
    for latents, margins in [((4, 2), (5, 1)), ((3, 2), (3, 1)), ((4,), (4, 1))]:
        with pytest.raises(ValueError, match="same four or more"):
            linear_separability(np.zeros(latents), np.zeros(margins))


def test_a_rare_attribute_counts_only_with_rare(rng):
    latents = rng.normal(size=(1000, 2))
    ring = np.square(latents).sum(1)
    margins = (np.quantile(ring, 0.1) - ring)[:, None]  # the innermost tenth, which no plane separates
    assert linear_separability(latents, margins) == 1
    assert linear_separability(latents, margins, rare=True) > 1.2
    assert linear_separability(latents, margins + 1e9, rare=True) == 1
