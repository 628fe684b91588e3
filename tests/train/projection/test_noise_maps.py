"""The regulariser of noise equals the paper's sums in float64, and tells noise from a picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stylert.train.projection.noise_maps import SMALLEST, noise_buffers, noise_regularization, renormalize
from tests.models.stylegan2.tiny import tiny_generator


def paper_loss(maps: list[np.ndarray]) -> float:
    """Karras et al. 2020a, appendix D, pixel by pixel, for maps `[R, R]`."""
    total = 0.0
    for noise in maps:
        n = noise.astype(np.float64)
        while True:
            r = len(n)
            across = sum(n[y, x] * n[y, x - 1] for y in range(r) for x in range(r)) / r**2
            down = sum(n[y, x] * n[y - 1, x] for y in range(r) for x in range(r)) / r**2
            total += across**2 + down**2
            if r <= 8:
                break
            half = r // 2
            n = np.array([[n[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean() * 2 for x in range(half)] for y in range(half)])
    return total


def test_the_loss_is_that_of_the_paper(rng: np.random.Generator) -> None:
    arrays = [rng.standard_normal((3, r, r)) + rng.standard_normal((3, 1, 1)) for r in (4, 8, 8, 16, 16, 32)]
    losses = noise_regularization([torch.from_numpy(a)[:, None] for a in arrays])
    np.testing.assert_allclose(losses, [paper_loss([a[i] for a in arrays]) for i in range(3)], rtol=1e-10)


def test_a_picture_costs_far_more_than_noise_of_the_same_variance(rng: np.random.Generator) -> None:
    y, x = np.mgrid[:32, :32] / 32 * 2 * np.pi
    both = torch.from_numpy(np.stack([np.sin(x + 2 * y), rng.standard_normal((32, 32))]))[:, None].float()
    renormalize([both])
    picture, noise = noise_regularization([both]).tolist()
    assert picture > 50 * noise


def test_coarse_structure_is_seen_at_the_coarse_maps_alone(rng: np.random.Generator) -> None:
    """Signs that alternate hide a pattern from the first map. The pyramid still sees one that is coarser than its pixels."""
    coarse = np.kron(np.sign(rng.standard_normal((8, 8))), np.ones((4, 4)))
    noise = rng.standard_normal((32, 32))
    mixed = torch.from_numpy(np.stack([0.3 * coarse + noise, noise]))[:, None]
    full = noise_regularization([mixed])
    finest = sum((mixed * mixed.roll(1, axis)).mean((1, 2, 3)).square() for axis in (2, 3))
    assert (full - finest)[0] > (full - finest)[1]


def test_maps_get_zero_mean_and_unit_variance_each(rng: np.random.Generator) -> None:
    noise = torch.from_numpy(rng.standard_normal((2, 1, SMALLEST, SMALLEST)) * [[[[3.0]]], [[[0.1]]]] + 5)
    constant = torch.ones(1, 1, 4, 4)
    renormalize([noise, constant])
    np.testing.assert_allclose(noise.mean((1, 2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(noise.square().mean((1, 2, 3)), 1, rtol=1e-12)
    assert torch.equal(constant, torch.zeros(1, 1, 4, 4))


def test_every_layer_with_noise_has_one_map() -> None:
    generator = tiny_generator()
    found = noise_buffers(generator.synthesis)
    assert [tuple(noise.shape) for noise in found.values()] == [(4, 4), (8, 8), (8, 8), (16, 16), (16, 16)]
    assert list(found) == [
        f"b{r}.{layer}.noise_const" for r, layer in [(4, "conv1")] + [(r, c) for r in (8, 16) for c in ("conv0", "conv1")]
    ]


@pytest.mark.parametrize("resolution", [4, 8, 32])
def test_the_gradient_reaches_every_pixel(resolution: int) -> None:
    noise = torch.randn(2, 1, resolution, resolution, requires_grad=True)
    noise_regularization([noise]).sum().backward()
    assert noise.grad is not None
    assert (noise.grad != 0).float().mean() > 0.99
