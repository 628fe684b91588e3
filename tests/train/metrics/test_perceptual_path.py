"""Path lengths equal closed forms for a generator that returns its latent as the image."""

import numpy as np
import pytest
import torch

from stylert.models.stylegan2.config import GeneratorConfig
from stylert.models.stylegan2.networks import Generator
from stylert.train.metrics import perceptual_path
from stylert.train.metrics.perceptual_path import PathSampling, mean_without_outliers, path_distances, slerp


class IdentityGenerator:
    """Replaces a generator: w is `2 z / |z|`, and the image of 8 by 8 pixels is w itself."""

    cfg = GeneratorConfig(8, z_dim=64, w_dim=64, channel_base=32, channel_max=4, mapping_layers=1)

    def parameters(self):
        yield torch.zeros(1)

    def mapping(self, z, c=None):
        return (2 * z / z.norm(dim=1, keepdim=True))[:, None].double()

    def synthesis(self, ws, noise_mode):
        assert noise_mode == "const"
        return ws[:, 0].reshape(-1, 1, 8, 8)


class SquaredDistance:
    """The squared difference of the pixels, as a perceptual distance."""

    name = "squared"

    def __call__(self, a, b):
        assert a.shape[1] == 3
        return (a - b).square().sum((1, 2, 3)) / 3


def ends(count, seed):
    """Start and end points of `count` paths on the unit sphere, as `path_distances` draws them in its first batch."""
    z = torch.randn(2, count, 64, generator=torch.Generator().manual_seed(seed)).double().numpy()
    return z / np.linalg.norm(z, axis=2, keepdims=True)


@pytest.mark.parametrize("full", [True, False])
def test_a_path_in_w_has_the_squared_distance_of_its_ends(full, seed):
    a, b = ends(9, seed)
    values = path_distances(IdentityGenerator(), SquaredDistance(), PathSampling("w", full), 9, seed)
    np.testing.assert_allclose(values, 4 * np.square(b - a).sum(1), rtol=1e-6)


@pytest.mark.parametrize("full", [True, False])
def test_a_path_in_z_has_the_squared_angle_of_its_ends(full, seed):
    a, b = ends(9, seed)
    angle = np.arccos((a * b).sum(1))
    values = path_distances(IdentityGenerator(), SquaredDistance(), PathSampling("z", full), 9, seed, epsilon=1e-2)
    np.testing.assert_allclose(values, 4 * angle**2, rtol=1e-4)  # the squares of a chord and of its arc differ by 1e-5


def test_crop_compares_the_middle_only(seed):
    a, b = ends(9, seed)
    middle = (slice(None), slice(3, 7), slice(2, 6))
    values = path_distances(IdentityGenerator(), SquaredDistance(), PathSampling("w", False, crop=True), 9, seed)
    expected = 4 * np.square((b - a).reshape(-1, 8, 8)[middle]).sum((1, 2))
    np.testing.assert_allclose(values, expected, rtol=1e-6)


def test_random_noise_is_that_of_both_ends_and_the_stored_noise_stays(seed):
    torch.manual_seed(seed)
    cfg = GeneratorConfig(8, z_dim=4, w_dim=4, channel_base=32, channel_max=4, mapping_layers=1)
    generator, seen = Generator(cfg).eval(), []
    for name, p in generator.named_parameters():
        if name.endswith("noise_strength"):
            p.data.fill_(1)
    stored = {k: v.clone() for k, v in generator.named_buffers()}

    class Recorder(SquaredDistance):
        def __call__(self, a, b):
            seen.append((a, b))
            return super().__call__(a, b)

    for mode in ("const", "random"):
        path_distances(generator, Recorder(), PathSampling(noise_mode=mode), 20, seed)
    assert all(torch.equal(v, stored[k]) for k, v in generator.named_buffers())
    for a, b in seen:
        assert (a - b).abs().max() < 0.01  # independent noise would differ by about one
    assert (seen[0][0] - seen[2][0]).abs().max() > 0.1


@pytest.mark.parametrize(("resolution", "side"), [(512, 256), (1024, 256), (256, 128)])
def test_cropped_images_are_compared_at_256_px_at_most(resolution, side):
    images = torch.zeros(1, 3, resolution, resolution)
    assert perceptual_path._compared(images, crop=True).shape == (1, 3, side, side)


def test_large_images_are_averaged_down(monkeypatch, rng):
    monkeypatch.setattr(perceptual_path, "COMPARED_SIZE", 4)
    images = torch.from_numpy(rng.normal(size=(2, 3, 16, 16)))
    small = perceptual_path._compared(images, crop=False)
    np.testing.assert_allclose(small, images.numpy().reshape(2, 3, 4, 4, 4, 4).mean((3, 5)), atol=1e-12)


def test_slerp_stays_on_the_unit_sphere_and_meets_its_ends(rng):
    a, b = torch.from_numpy(rng.normal(size=(2, 20, 5)))
    points = [slerp(a, b, torch.full((20, 1), t, dtype=torch.float64)) for t in (0, 0.3, 1)]
    torch.testing.assert_close(points[0], a / a.norm(dim=1, keepdim=True))
    torch.testing.assert_close(points[2], b / b.norm(dim=1, keepdim=True))
    torch.testing.assert_close(points[1].norm(dim=1), torch.ones(20, dtype=torch.float64))


def test_the_mean_leaves_out_one_percent_at_each_end(rng):
    values = rng.permutation(np.arange(1000.0))
    assert mean_without_outliers(values) == np.arange(9, 991).mean()
    values[values.argmax()] = 1e9
    assert mean_without_outliers(values) == np.arange(9, 991).mean()


@pytest.mark.parametrize("c_dim", [0, 3])
def test_a_real_generator_gives_the_same_values_each_time(c_dim, seed):
    torch.manual_seed(seed)
    cfg = GeneratorConfig(8, z_dim=4, w_dim=4, c_dim=c_dim, channel_base=32, channel_max=4, mapping_layers=1)
    generator, reports = Generator(cfg).eval(), []
    values = [
        path_distances(generator, SquaredDistance(), PathSampling(), 20, seed, progress=lambda *report: reports.append(report))
        for _ in range(2)
    ]
    np.testing.assert_array_equal(*values)
    assert values[0].shape == (20,)
    assert np.isfinite(values[0]).all()
    assert reports[:2] == [("path length", 16, 20), ("path length", 20, 20)]
