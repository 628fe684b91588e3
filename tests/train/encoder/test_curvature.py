"""The mean curvature is that of the loss, and its solutions are those of dense matrices in float64."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from stylert.core.errors import InputError
from stylert.models.stylegan2.networks import Generator
from stylert.train.encoder import curvature
from stylert.train.encoder.curvature import Curvature, curvature_of, mean_curvature
from stylert.train.projection.objective import Objective
from tests.models.stylegan2.tiny import tiny_generator
from tests.train.projection.pixel_distance import PixelDistance

LAYERS, NUMBERS = 3, 5


@pytest.fixture
def found(rng: np.random.Generator) -> Curvature:
    axes = np.linalg.qr(rng.standard_normal((LAYERS * NUMBERS, 4)))[0].T
    return Curvature(*(torch.from_numpy(a).float() for a in (axes, 10 ** rng.uniform(-3, 3, 4), np.array([0.01]))))


def dense(found: Curvature) -> np.ndarray:
    """M in float64, from its definition."""
    axes = found.axes.double().numpy()
    rest = float(found.rest) * (np.eye(axes.shape[1]) - axes.T @ axes)
    return rest + axes.T @ np.diag(found.values.double().numpy()) @ axes


def test_solutions_are_those_of_the_dense_matrix(found: Curvature, rng: np.random.Generator) -> None:
    b, damping = rng.standard_normal((2, LAYERS, NUMBERS)), np.array([0.003, 0.7])
    x = found.solve(torch.from_numpy(b).float(), torch.from_numpy(damping).float()[:, None, None]).numpy()
    for row, right, d in zip(x, b, damping, strict=True):
        expected = np.linalg.solve(dense(found) + d * np.eye(LAYERS * NUMBERS), right.ravel())
        np.testing.assert_allclose(row.ravel(), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_one_latent_for_all_layers_has_the_sum_of_the_blocks(found: Curvature, rng: np.random.Generator) -> None:
    b, damping = rng.standard_normal((2, 1, NUMBERS)), np.array([0.003, 0.7])
    x = found.solve_for_w(torch.from_numpy(b).float(), torch.from_numpy(damping).float()[:, None, None]).numpy()
    same = np.tile(np.eye(NUMBERS), (LAYERS, 1))  # from w to ws
    for row, right, d in zip(x, b, damping, strict=True):
        expected = np.linalg.solve(same.T @ dense(found) @ same + d * np.eye(NUMBERS), right[0])
        np.testing.assert_allclose(row[0], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_the_curvature_of_a_linear_generator_is_that_of_its_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    class Linear(torch.nn.Module):
        """A generator whose images are a matrix times ws."""

        def __init__(self) -> None:
            super().__init__()
            self.network, self.cfg = tiny_generator(), tiny_generator().cfg
            self.mapping = self.network.mapping
            self.matrix = torch.nn.Parameter(torch.randn(self.cfg.num_ws * self.cfg.w_dim, 3 * 16 * 16), requires_grad=False)

        def synthesis(self, ws: Tensor, _: str) -> Tensor:
            return (ws.flatten(1) @ self.matrix).reshape(-1, 3, 16, 16)

    generator, weight = Linear(), 50.0
    monkeypatch.setattr(curvature, "LATENTS", 4000)
    found = mean_curvature(generator, Objective(PixelDistance(), weight), batch=500, seed=3)  # type: ignore[arg-type]
    # The loss is (weight + 1) times the mean of squares, and its second derivative is 2 / pixels.
    matrix = generator.matrix.double().numpy()
    expected = (weight + 1) * 2 / matrix.shape[1] * matrix @ matrix.T
    assert np.abs(dense(found) - expected).max() < 0.05 * np.linalg.norm(expected, 2)


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not(generator: Generator) -> None:
    first, again, other = (mean_curvature(generator, Objective(PixelDistance(), 1.0), 32, seed) for seed in (0, 0, 1))
    for name, array in first.arrays().items():
        assert array.tobytes() == again.arrays()[name].tobytes() != other.arrays()[name].tobytes()


def test_a_curvature_comes_back_from_its_arrays(found: Curvature) -> None:
    again = curvature_of(found.arrays(), LAYERS * NUMBERS)
    for name, array in found.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], array)


@pytest.mark.parametrize(
    "changed",
    [
        {"axes": np.zeros((4, 7), np.float32)},
        {"axes": np.zeros((0, 15), np.float32), "values": np.zeros(0, np.float32)},
        {"values": np.ones((4, 1), np.float32)},
        {"values": np.array([1, 1, 0, 1], np.float32)},
        {"rest": np.array([-1], np.float32)},
        {"rest": np.ones((), np.float32)},
        {"other": np.ones(1, np.float32)},
    ],
)
def test_damaged_arrays_are_refused(changed: Mapping[str, np.ndarray], found: Curvature) -> None:
    with pytest.raises(InputError, match="the encoder is damaged"):
        curvature_of(found.arrays() | dict(changed), LAYERS * NUMBERS)
