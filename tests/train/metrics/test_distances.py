"""Distances equal SciPy, closed forms, and explicit sums over pairs."""

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from stylert.train.metrics import distances
from stylert.train.metrics.distances import frechet_distance, inception_score, kernel_distance, precision_recall

seeds = st.integers(0, 2**32 - 1)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 12), st.integers(3, 60), st.integers(3, 60), seeds)
def test_frechet_equals_the_formula_with_the_matrix_root_of_scipy(dimensions, n, m, seed):
    """Includes sets with fewer samples than dimensions, which have singular covariances."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, dimensions)) @ rng.normal(size=(dimensions, dimensions)) + rng.normal(size=dimensions)
    b = rng.normal(size=(m, dimensions)) @ rng.normal(size=(dimensions, dimensions))
    ca, cb = np.cov(a, rowvar=False).reshape(dimensions, -1), np.cov(b, rowvar=False).reshape(dimensions, -1)
    if min(n, m) > dimensions + 2:
        cross = np.trace(scipy.linalg.sqrtm(ca @ cb)).real
    else:  # sqrtm needs a regular matrix, but eigenvalues do not
        cross = np.sqrt(np.maximum(scipy.linalg.eigvals(ca @ cb).real, 0)).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * cross
    scale = np.trace(ca) + np.trace(cb)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-4, abs=1e-5 * scale)


@given(st.integers(3, 50), st.integers(3, 50), seeds)
def test_frechet_in_one_dimension_compares_means_and_deviations(n, m, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(3, 2, (n, 1)), rng.normal(-1, 5, (m, 1))
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


@given(st.integers(1, 6), seeds)
def test_frechet_with_diagonal_covariances_is_the_sum_over_dimensions(dimensions, seed):
    """The points lie on the axes, so the covariance is exactly diagonal."""
    rng = np.random.default_rng(seed)
    scales, means = rng.uniform(0.1, 5, (2, dimensions)), rng.normal(size=(2, dimensions))
    a, b = (np.concatenate([np.diag(s), -np.diag(s)]) + m for s, m in zip(scales, means, strict=True))
    deviations = scales * np.sqrt(2 / (2 * dimensions - 1))
    expected = ((means[0] - means[1]) ** 2).sum() + ((deviations[0] - deviations[1]) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-7)


@given(st.integers(2, 8), seeds)
def test_frechet_is_zero_for_equal_sets_symmetric_and_invariant_to_rotation(dimensions, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(40, dimensions)), rng.normal(1, 2, (30, dimensions))
    assert frechet_distance(a, rng.permutation(a)) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6)
    rotation = scipy.linalg.qr(rng.normal(size=(dimensions, dimensions)))[0]
    assert frechet_distance(a @ rotation, b @ rotation) == pytest.approx(frechet_distance(a, b), rel=1e-6)
    assert frechet_distance(a, a + 2) == pytest.approx(4 * dimensions, rel=1e-6)


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(2, 9), st.integers(2, 9), st.integers(1, 10), seeds)
def test_the_kernel_distance_is_the_mean_over_distinct_pairs(dimensions, n, m, rows, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, dimensions)), rng.normal(1, 2, (m, dimensions))

    def k(x, y):
        return (sum(x[i] * y[i] for i in range(dimensions)) / dimensions + 1) ** 3

    within = [np.mean([k(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j]) for s in (a, b)]
    expected = sum(within) - 2 * np.mean([k(x, y) for x in a for y in b])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distances, "ROWS", rows)
        assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-9, abs=1e-9)
        assert kernel_distance(b, a) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_the_kernel_distance_is_unbiased_and_increases_with_the_shift(rng):
    samples = [kernel_distance(rng.normal(size=(40, 4)), rng.normal(size=(40, 4))) for _ in range(200)]
    assert abs(np.mean(samples)) < 5 * np.std(samples) / np.sqrt(200)
    a = rng.normal(size=(300, 4))
    increasing = [kernel_distance(a, rng.normal(size=(300, 4)) + shift) for shift in (0, 0.5, 1, 2)]
    assert increasing == sorted(increasing)


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(4, 12), st.integers(4, 12), st.integers(1, 3), st.integers(1, 10), seeds)
def test_precision_and_recall_count_points_inside_neighbourhoods(dimensions, n, m, k, rows, seed):
    rng = np.random.default_rng(seed)
    generated, real = rng.normal(size=(n, dimensions)), rng.normal(0.5, 1.5, (m, dimensions))

    def share(points, centres):
        inside = 0
        for x in points:
            for i, centre in enumerate(centres):
                radius = sorted(np.linalg.norm(centre - y) for j, y in enumerate(centres) if j != i)[k - 1]
                if np.linalg.norm(x - centre) <= radius:
                    inside += 1
                    break
        return inside / len(points)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distances, "ROWS", rows)
        assert precision_recall(generated, real, k) == pytest.approx((share(generated, real), share(real, generated)))


def test_few_modes_lower_recall_and_noise_lowers_precision(rng):
    modes = rng.normal(size=(8, 6)) * 20
    real, all_modes = (modes[rng.integers(0, 8, 1000)] + rng.normal(size=(1000, 6)) for _ in range(2))
    few = modes[rng.integers(0, 2, 1000)] + rng.normal(size=(1000, 6))
    precision, recall = precision_recall(all_modes, real)
    assert min(precision, recall) > 0.8
    precision, recall = precision_recall(few, real)
    assert precision > 0.8
    assert recall < 0.4
    assert precision_recall(all_modes + rng.normal(size=(1000, 6)) * 8, real)[0] < 0.2


def test_precision_and_recall_refuse_too_few_points(rng):
    with pytest.raises(ValueError, match="more than 3"):
        precision_recall(rng.normal(size=(3, 2)), rng.normal(size=(9, 2)))


@given(st.integers(2, 6), st.integers(1, 4), st.integers(1, 5), seeds)
def test_the_inception_score_is_the_mutual_information_of_image_and_class(classes, splits, per_split, seed):
    logits = np.random.default_rng(seed).normal(size=(splits * per_split, classes)) * 3
    scores = []
    for part in logits.reshape(splits, per_split, classes):
        p = np.exp(part - scipy.special.logsumexp(part, axis=1, keepdims=True))
        entropy = scipy.stats.entropy(p.mean(0))
        scores.append(np.exp(entropy - np.mean([scipy.stats.entropy(row) for row in p])))
    assert inception_score(logits, splits) == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-6, abs=1e-6)


@given(st.integers(2, 9))
def test_the_inception_score_of_certain_and_balanced_classes_is_their_number(classes):
    certain = np.tile(np.eye(classes) * 1e4, (10, 1))
    assert inception_score(certain) == pytest.approx((classes, 0))
    assert inception_score(np.zeros((20, classes))) == pytest.approx((1, 0))
    with pytest.raises(ValueError, match="10 images or more"):
        inception_score(certain[:9])
