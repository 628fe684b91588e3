"""VGG16 of ST-LPIPS: its layers in float64 SciPy on one image, and distances that grow with damage."""

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate, maximum_filter

from stylert.core.errors import BackendError
from stylert.models.features import st_vgg16
from stylert.models.features.st_vgg16 import StVgg16


@pytest.fixture(scope="module")
def extractor():
    return StVgg16()


def test_a_pooling_is_the_maximum_and_a_binomial_filter(rng):
    x = rng.normal(size=(1, 2, 12, 12))
    expected = []
    for channel in x[0]:
        greatest = maximum_filter(channel, size=2, origin=-1)[:-1, :-1]
        smooth = correlate(greatest, np.outer([1, 2, 1], [1, 2, 1]) / 16, mode="mirror")
        expected.append(smooth[::2, ::2])
    actual = st_vgg16._pool(torch.from_numpy(x).float())[0].numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_the_first_slice_equals_float64(extractor, rng):
    (weight, bias), _ = extractor.slices[0]
    x = rng.normal(size=(3, 8, 8))
    kernels, offsets = weight.double().numpy(), bias.double().numpy()
    expected = [
        sum(correlate(c, k, mode="constant") for c, k in zip(x, kernel, strict=True)) + offset
        for kernel, offset in zip(kernels, offsets, strict=True)
    ]
    actual = torch.nn.functional.conv2d(torch.from_numpy(x).float()[None], weight, bias, padding=1)[0].numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_features_are_means_of_the_maps_and_grey_is_three_equal_channels(extractor, rng):
    images = rng.integers(0, 256, (3, 16, 16, 1), np.uint8)
    features = extractor(images)
    assert features.shape == (3, 512)
    np.testing.assert_allclose(features, extractor(np.repeat(images, 3, axis=3)))
    maps = extractor.maps(torch.from_numpy(np.repeat(images, 3, axis=3)).permute(0, 3, 1, 2).float())
    np.testing.assert_allclose(features, maps.mean((2, 3)).numpy(), rtol=1e-5)


def test_the_distance_grows_with_noise(extractor, rng):
    smooth = np.repeat(np.repeat(rng.integers(60, 196, (4, 4, 4, 3)), 8, axis=1), 8, axis=2)
    clean = extractor(smooth.astype(np.uint8))
    distances = []
    for std in (5, 15, 50):
        noisy = (smooth + rng.normal(0, std, smooth.shape)).clip(0, 255).astype(np.uint8)
        distances.append(np.linalg.norm(extractor(noisy) - clean))
    assert distances == sorted(distances)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(st_vgg16, "PACKAGE", "no_such_package")
    with pytest.raises(BackendError, match=r"stylert\[st-lpips\]"):
        StVgg16()
