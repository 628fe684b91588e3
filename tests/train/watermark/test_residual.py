"""The network of the decoder: it finds a field in an image better than a filter does, and knows nothing of patterns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from stylert.train.watermark.attacks import HALF, saved
from stylert.train.watermark.residual import (
    HIGHEST,
    LOWEST,
    RADIUS,
    ResidualNetwork,
    frequency_band,
    random_fields,
    train_residual,
)


def shapes(count: int, side: int = 32) -> torch.Tensor:
    """Images with sharp edges: a disc of another colour on a flat ground, `[count, 3, side, side]`."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    centre, radius = torch.rand(count, 2, 1, 1) * side, torch.rand(count, 1, 1) * side / 3 + 3
    disc = (((y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2) < radius**2)[:, None].float()
    colors = torch.rand(count, 2, 3, 1, 1) * 1.6 - 0.8
    return saved(disc * colors[:, 0] + (1 - disc) * colors[:, 1])


@pytest.mark.slow
def test_a_trained_network_finds_a_faint_field_better_than_a_filter() -> None:
    torch.manual_seed(0)
    network = train_residual(shapes(300), 120, 3)
    fields = random_fields(64, frequency_band(32))
    x = saved(shapes(64) + fields[:, None] * 3 / HALF)
    grey = x.mean(1).numpy()
    difference = grey - ndimage.gaussian_filter(grey, (0, 1.5, 1.5), mode="nearest")
    by_filter, by_network = np.tanh(difference / 0.015), network(x).numpy()
    target = fields.numpy().ravel()
    assert np.corrcoef(by_network.ravel(), target)[0, 1] > np.corrcoef(by_filter.ravel(), target)[0, 1] + 0.05


def test_training_repeats_with_its_seed_and_leaves_the_random_state() -> None:
    x, state = shapes(20, 16), torch.get_rng_state()
    a, b, other = (train_residual(x, 3, seed) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a[0].weight, other[0].weight)
    assert not any(p.requires_grad for p in a.parameters())


@pytest.mark.parametrize("side", [16, 33])
def test_fields_have_mean_square_one_and_the_frequencies_of_marks_alone(side: int) -> None:
    fields = random_fields(3, frequency_band(side)).numpy()
    assert np.allclose((fields**2).mean((1, 2)), 1, atol=1e-4)
    radius = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None])
    power = np.abs(np.fft.fft2(fields)) ** 2
    assert power[:, (radius < LOWEST) | (radius > HIGHEST)].sum() < 1e-9 * power.sum()


def test_a_residual_has_the_size_of_its_image_and_moves_with_it() -> None:
    network = ResidualNetwork().requires_grad_(False)
    x = torch.rand(1, 3, 48, 40) * 2 - 1
    whole, part = network(x), network(x[:, :, 5:, 3:])
    assert whole.shape == (1, 48, 40)
    inner = slice(RADIUS, -RADIUS)
    assert torch.allclose(whole[:, 5:, 3:][:, inner, inner], part[:, inner, inner], atol=1e-5)
    assert network(x[:, :, :1, :1]).shape == (1, 1, 1)
