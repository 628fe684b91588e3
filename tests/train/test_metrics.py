"""The Fréchet distance against SciPy and closed forms, and the features' dependence on the images alone."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stylert.runtime.errors import InputError
from stylert.train.config import GeneratorConfig
from stylert.train.metrics import FEATURES, FIRST_SEED, FeatureExtractor, frechet_distance, generated_features, real_features
from stylert.train.networks import Generator

seeds = st.integers(0, 2**32 - 1)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 12), st.integers(3, 60), st.integers(3, 60), seeds)
def test_equals_the_formula_with_scipys_matrix_root(dimensions, n, m, seed):
    """Also with fewer samples than dimensions, when the covariances are singular."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, dimensions)) @ rng.normal(size=(dimensions, dimensions)) + rng.normal(size=dimensions)
    b = rng.normal(size=(m, dimensions)) @ rng.normal(size=(dimensions, dimensions))
    ca, cb = np.cov(a, rowvar=False).reshape(dimensions, -1), np.cov(b, rowvar=False).reshape(dimensions, -1)
    if min(n, m) > dimensions + 2:
        cross = np.trace(scipy.linalg.sqrtm(ca @ cb)).real
    else:  # sqrtm needs a regular matrix; the eigenvalues of the product do not
        cross = np.sqrt(np.maximum(scipy.linalg.eigvals(ca @ cb).real, 0)).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * cross
    scale = np.trace(ca) + np.trace(cb)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-4, abs=1e-5 * scale)


@given(st.integers(3, 50), st.integers(3, 50), seeds)
def test_in_one_dimension_it_is_the_distance_of_means_and_deviations(n, m, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(3, 2, (n, 1)), rng.normal(-1, 5, (m, 1))
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


@given(st.integers(1, 6), seeds)
def test_with_diagonal_covariances_it_is_the_sum_over_dimensions(dimensions, seed):
    """Points at plus and minus the axes have a covariance that is exactly diagonal."""
    rng = np.random.default_rng(seed)
    scales, means = rng.uniform(0.1, 5, (2, dimensions)), rng.normal(size=(2, dimensions))
    a, b = (np.concatenate([np.diag(s), -np.diag(s)]) + m for s, m in zip(scales, means, strict=True))
    deviations = scales * np.sqrt(2 / (2 * dimensions - 1))
    expected = ((means[0] - means[1]) ** 2).sum() + ((deviations[0] - deviations[1]) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-7)


@given(st.integers(2, 8), seeds)
def test_is_zero_for_equal_sets_symmetric_and_blind_to_order(dimensions, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(40, dimensions)), rng.normal(1, 2, (30, dimensions))
    assert frechet_distance(a, rng.permutation(a)) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6)
    rotation = scipy.linalg.qr(rng.normal(size=(dimensions, dimensions)))[0]
    assert frechet_distance(a @ rotation, b @ rotation) == pytest.approx(frechet_distance(a, b), rel=1e-6)
    assert frechet_distance(a, a + 2) == pytest.approx(4 * dimensions, rel=1e-6)


@pytest.fixture(scope="module")
def extractor():
    return FeatureExtractor()


@pytest.fixture
def pictures(rng):
    """Smooth uint8 images: a few large coloured waves each."""
    y, x = np.mgrid[:32, :32] / 32
    waves = rng.normal(size=(6, 3, 2, 1, 1)) * 6
    phase = rng.uniform(0, 7, (6, 3, 1, 1))
    images = np.sin(waves[:, :, 0] * x + waves[:, :, 1] * y + phase)
    return (127.5 + 100 * images).astype(np.uint8).transpose(0, 2, 3, 1)


def test_features_depend_on_each_image_alone(extractor, pictures):
    features = extractor(pictures)
    assert features.shape == (6, FEATURES)
    np.testing.assert_array_equal(features, extractor(pictures))
    np.testing.assert_allclose(extractor(pictures[2:3])[0], features[2], atol=1e-4 * np.abs(features).max())
    grey = pictures[:2, :, :, :1]
    repeated = extractor(np.repeat(grey, 3, 3))
    np.testing.assert_allclose(extractor(grey), repeated, atol=1e-4 * np.abs(repeated).max())


def test_more_noise_is_a_greater_distance(extractor, pictures, rng):
    clean, noise, few = extractor(pictures), rng.normal(size=pictures.shape), rng.normal(size=(FEATURES, 16)) / 16
    distances = []
    for amount in (0, 2, 6, 18):
        noisy = np.clip(pictures + amount * noise, 0, 255).astype(np.uint8)
        distances.append(frechet_distance(extractor(noisy) @ few, clean @ few))
    assert distances[0] == pytest.approx(0, abs=1e-6)
    assert distances == sorted(distances)


class Means:
    """An extractor that shows which images it was given, and in what portions."""

    def __init__(self):
        self.portions = []

    def __call__(self, images):
        self.portions.append(len(images))
        return np.repeat(images.reshape(len(images), -1).mean(1)[:, None], FEATURES, 1)


def test_real_features_are_of_the_first_images_in_portions(write_dataset, rng):
    images = {f"{i:03d}.png": rng.integers(0, 256, (4, 4, 3), np.uint8) for i in range(60)}
    path, extractor, calls = write_dataset(images), Means(), []
    features = real_features(extractor, path, 55, lambda *a: calls.append(a))
    np.testing.assert_allclose(features[:, 0], [i.mean() for i in images.values()][:55])
    assert calls == [(50, 55), (55, 55)]
    assert extractor.portions == [50, 5]
    with pytest.raises(InputError, match="has 60 images, 61"):
        real_features(extractor, path, 61)


@pytest.mark.parametrize("c_dim", [0, 3])
def test_generated_features_are_of_consecutive_seeds_and_labels_in_turn(c_dim, seed):
    torch.manual_seed(seed)
    cfg = GeneratorConfig(8, z_dim=4, w_dim=4, c_dim=c_dim, channel_base=32, channel_max=4, mapping_layers=1)
    generator = Generator(cfg).eval().requires_grad_(False)
    features = generated_features(Means(), generator, 52)
    assert features.shape == (52, FEATURES)
    z = torch.from_numpy(np.random.RandomState(FIRST_SEED + 51).randn(1, 4)).float()
    image = generator(z, torch.eye(c_dim)[[51 % c_dim]] if c_dim else None)
    expected = np.floor(np.clip(image.double().numpy() * 127.5 + 128, 0, 255)).mean()
    assert features[51, 0] == pytest.approx(expected, abs=0.1)
