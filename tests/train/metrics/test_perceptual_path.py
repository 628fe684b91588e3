"""Path length against paths walked in float64, with distances whose path length is known."""

import numpy as np
import pytest
import torch

from stylert.models.stylegan2.config import GeneratorConfig
from stylert.models.stylegan2.networks import Generator
from stylert.train.metrics import perceptual_path
from stylert.train.metrics.perceptual_path import PathSampling, mean_without_outliers, path_distances, slerp


class Generated:
    """Stands in for a generator: the image is the latent itself, 8 by 8 pixels, and w is `2 z / |z|`."""

    cfg = GeneratorConfig(8, z_dim=64, w_dim=64, channel_base=32, channel_max=4, mapping_layers=1)

    def parameters(self):
        yield torch.zeros(1)

    def mapping(self, z, c=None):
        return (2 * z / z.norm(dim=1, keepdim=True))[:, None].double()

    def synthesis(self, ws, noise_mode):
        assert noise_mode == "const"
        return ws[:, 0].reshape(-1, 1, 8, 8)


class Squared:
    name = "squared"

    def __call__(self, a, b):
        assert a.shape[1] == 3
        return (a - b).square().sum((1, 2, 3)) / 3


def ends(count, seed):
    """Unit latents of `count` pairs, at most one portion of them."""
    z = torch.randn(2, count, 64, generator=torch.Generator().manual_seed(seed)).double().numpy()
    return z / np.linalg.norm(z, axis=2, keepdims=True)


@pytest.mark.parametrize("full", [True, False])
def test_lines_in_w_have_the_squared_distance_of_their_ends_anywhere(full, seed):
    a, b = ends(9, seed)
    found = path_distances(Generated(), Squared(), PathSampling("w", full), 9, seed)
    np.testing.assert_allclose(found, 4 * np.square(b - a).sum(1), rtol=1e-6)


@pytest.mark.parametrize("full", [True, False])
def test_great_circles_in_z_have_the_squared_angle_of_their_ends_anywhere(full, seed):
    a, b = ends(9, seed)
    angle = np.arccos((a * b).sum(1))
    found = path_distances(Generated(), Squared(), PathSampling("z", full), 9, seed, epsilon=1e-2)
    np.testing.assert_allclose(found, 4 * angle**2, rtol=1e-4)  # the square of a chord and of its arc differ by 1e-5


def test_the_middle_alone_is_compared_when_cropped(seed):
    a, b = ends(9, seed)
    middle = (slice(None), slice(3, 7), slice(2, 6))
    found = path_distances(Generated(), Squared(), PathSampling("w", False, crop=True), 9, seed)
    expected = 4 * np.square((b - a).reshape(-1, 8, 8)[middle]).sum((1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_large_images_are_averaged_down(monkeypatch, rng):
    monkeypatch.setattr(perceptual_path, "COMPARED_SIZE", 4)
    images = torch.from_numpy(rng.normal(size=(2, 3, 16, 16)))
    small = perceptual_path._compared(images, crop=False)
    np.testing.assert_allclose(small, images.numpy().reshape(2, 3, 4, 4, 4, 4).mean((3, 5)), atol=1e-12)


def test_circles_keep_to_the_sphere_and_meet_their_ends(rng):
    a, b = torch.from_numpy(rng.normal(size=(2, 20, 5)))
    at = [slerp(a, b, torch.full((20, 1), t, dtype=torch.float64)) for t in (0, 0.3, 1)]
    torch.testing.assert_close(at[0], a / a.norm(dim=1, keepdim=True))
    torch.testing.assert_close(at[2], b / b.norm(dim=1, keepdim=True))
    torch.testing.assert_close(at[1].norm(dim=1), torch.ones(20, dtype=torch.float64))


def test_the_mean_leaves_out_a_hundredth_at_both_ends(rng):
    values = rng.permutation(np.arange(1000.0))
    assert mean_without_outliers(values) == np.arange(9, 991).mean()
    values[values.argmax()] = 1e9
    assert mean_without_outliers(values) == np.arange(9, 991).mean()


@pytest.mark.parametrize("c_dim", [0, 3])
def test_a_real_generator_gives_the_same_numbers_each_time(c_dim, seed):
    torch.manual_seed(seed)
    cfg = GeneratorConfig(8, z_dim=4, w_dim=4, c_dim=c_dim, channel_base=32, channel_max=4, mapping_layers=1)
    generator, reports = Generator(cfg).eval(), []
    found = [
        path_distances(generator, Squared(), PathSampling(), 20, seed, progress=lambda *report: reports.append(report))
        for _ in range(2)
    ]
    np.testing.assert_array_equal(*found)
    assert found[0].shape == (20,)
    assert np.isfinite(found[0]).all()
    assert reports[:2] == [("path length", 16, 20), ("path length", 20, 20)]
