"""Motion supervision and tracking agree with slow float64 references, and only the moved side has a gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stylert.train.dragging.motion import disc, mask_loss, motion_loss, sample, square
from stylert.train.dragging.tracking import track

SIDE, CHANNELS = 12, 5


@pytest.fixture
def features() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(5).standard_normal((1, CHANNELS, SIDE, SIDE), np.float32))


def bilinear(features: np.ndarray, x: float, y: float) -> np.ndarray:
    """The value `[C]` of features `[C, R, R]` between pixels. Places beyond the edge are moved to it."""
    x, y = min(max(x, 0.0), SIDE - 1.0), min(max(y, 0.0), SIDE - 1.0)
    left, top = min(math.floor(x), SIDE - 2), min(math.floor(y), SIDE - 2)
    a, b = x - left, y - top
    above = (1 - a) * features[:, top, left] + a * features[:, top, left + 1]
    below = (1 - a) * features[:, top + 1, left] + a * features[:, top + 1, left + 1]
    return (1 - b) * above + b * below


def reference_motion(now: np.ndarray, moved: np.ndarray, points: np.ndarray, targets: np.ndarray, radius: int) -> float:
    total = 0.0
    for (x, y), (target_x, target_y) in zip(points, targets, strict=True):
        length = max(math.hypot(target_x - x, target_y - y), 1.0)
        step_x, step_y = (target_x - x) / length, (target_y - y) / length
        values = []
        for j in range(-radius, radius + 1):
            for i in range(-radius, radius + 1):
                if math.hypot(i, j) <= radius:
                    ahead = bilinear(moved, x + i + step_x, y + j + step_y)
                    values.append(np.abs(bilinear(now, x + i, y + j) - ahead).mean())
        total += float(np.mean(values))
    return total


def test_samples_are_bilinear_and_edges_go_on(features: torch.Tensor) -> None:
    points = np.random.default_rng(1).uniform(-3, SIDE + 2, (40, 2))
    found = sample(features, torch.from_numpy(points).float()).numpy()
    array = features[0].numpy().astype(np.float64)
    np.testing.assert_allclose(found, [bilinear(array, x, y) for x, y in points], atol=1e-5)


def test_offsets_lie_within_their_radius() -> None:
    assert sorted(map(tuple, disc(1).tolist())) == [(-1, 0), (0, -1), (0, 0), (0, 1), (1, 0)]
    assert len(square(3)) == 49
    assert len(disc(2)) == 13


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_motion_supervision_is_that_of_the_paper(features: torch.Tensor, radius: int) -> None:
    points = torch.tensor([[4.0, 5.0], [8.0, 2.0], [0.0, 11.0]])
    targets = torch.tensor([[9.0, 7.0], [8.5, 2.25], [0.0, 3.0]])
    array = features[0].numpy().astype(np.float64)
    loss = motion_loss(features, points, targets, radius)
    assert float(loss) == pytest.approx(reference_motion(array, array, points.numpy(), targets.numpy(), radius), rel=1e-5)


def test_the_gradient_is_that_of_the_features_ahead_alone(features: torch.Tensor) -> None:
    """A difference of the reference, in which the features around the handle stay as they are."""
    points, targets = torch.tensor([[4.0, 5.0], [7.0, 3.0]]), torch.tensor([[8.0, 8.0], [3.0, 3.5]])
    moved = features.clone().requires_grad_()
    motion_loss(moved, points, targets, 2).backward()
    assert moved.grad is not None
    array, places = features[0].numpy().astype(np.float64), (points.numpy(), targets.numpy(), 2)
    draws = np.random.default_rng(3)
    for _ in range(5):
        direction = draws.standard_normal(array.shape)
        low, high = (reference_motion(array, array + sign * 1e-6 * direction, *places) for sign in (-1, 1))
        assert (high - low) / 2e-6 == pytest.approx(float((moved.grad[0].numpy() * direction).sum()), rel=1e-3, abs=1e-5)


def test_the_mask_loss_sees_only_what_is_to_stay(features: torch.Tensor) -> None:
    is_fixed = torch.zeros(SIDE, SIDE)
    is_fixed[2:5, 3:9] = 1
    other = torch.where(is_fixed.bool(), features, features + 7)
    assert float(mask_loss(other, features, is_fixed)) == 0
    changed = features + torch.arange(CHANNELS).reshape(1, -1, 1, 1)
    assert float(mask_loss(changed, features, is_fixed)) == pytest.approx(2 * 18 / SIDE**2)


def test_tracking_finds_the_least_difference(features: torch.Tensor) -> None:
    draws = np.random.default_rng(8)
    array = features[0].numpy().astype(np.float64)
    points = torch.tensor([[4.0, 5.0], [11.0, 0.0], [6.0, 10.0]])
    references = torch.from_numpy(draws.standard_normal((3, CHANNELS))).float()
    found = track(features, references, points, 3)
    for (x, y), reference, (found_x, found_y) in zip(points.numpy(), references.numpy(), found.numpy(), strict=True):
        differences = {
            (i, j): np.abs(array[:, j, i] - reference).sum()
            for i in range(max(0, int(x) - 3), min(SIDE, int(x) + 4))
            for j in range(max(0, int(y) - 3), min(SIDE, int(y) + 4))
        }
        assert min(differences, key=lambda place: differences[place]) == (found_x, found_y)


def test_of_equal_features_the_last_place_wins() -> None:
    features = torch.ones(1, CHANNELS, SIDE, SIDE)
    points = torch.tensor([[3.0, 9.0], [0.0, 0.0]])
    assert torch.equal(track(features, torch.zeros(2, CHANNELS), points, 4), points)


def test_features_that_move_are_followed(features: torch.Tensor) -> None:
    points = torch.tensor([[4.0, 5.0], [7.0, 6.0]])
    moved = features.roll((2, -3), (2, 3))  # down by 2, and to the left by 3
    assert torch.equal(track(moved, sample(features, points), points, 3), points + torch.tensor([-3.0, 2.0]))
