"""A refinement recovers images from near latents, never makes one worse, and treats each picture by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from stylert.core.errors import InputError
from stylert.core.images.grids import as_uint8
from stylert.core.images.similarity import psnr
from stylert.models.stylegan2.networks import Generator
from stylert.train.encoder import refinement
from stylert.train.encoder.curvature import Curvature, mean_curvature
from stylert.train.encoder.refinement import RefinementSettings, Refiner, conjugate_gradients, rounds
from stylert.train.projection.objective import Objective
from tests.models.stylegan2.tiny import tiny_generator
from tests.train.projection.pixel_distance import PixelDistance

OBJECTIVE = Objective(PixelDistance(), 50.0)


def pairs(generator: Generator, count: int) -> tuple[Tensor, Tensor]:
    """Latents that lie near those of the images, and the images, as 8 bits hold them."""
    ws = generator.mapping(torch.randn(count, generator.cfg.z_dim))
    images = torch.from_numpy(as_uint8(generator.synthesis(ws, "const").numpy())).permute(0, 3, 1, 2)
    return ws + 0.3 * torch.randn_like(ws), (images.float() - 127.5) / 127.5


def refiner(generator: Generator, steps: int, space: str = "w+") -> Refiner:
    curvature = mean_curvature(generator, OBJECTIVE, batch=16, seed=0)
    return Refiner(generator, OBJECTIVE, curvature, RefinementSettings(space, steps))  # type: ignore[arg-type]


def loss(generator: Generator, ws: np.ndarray, images: Tensor) -> Tensor:
    return OBJECTIVE(generator.synthesis(torch.from_numpy(ws), "const"), OBJECTIVE.target(images))


@pytest.mark.parametrize("space", ["w", "w+"])
def test_images_of_the_network_are_recovered(generator: Generator, space: str) -> None:
    ws, images = pairs(generator, 3)
    start = refiner(generator, 0, space).refine(images, ws)
    found = refiner(generator, 60, space).refine(images, ws)
    for before, after, image in zip(start, found, images, strict=True):
        assert after.psnr > before.psnr + 5
        assert after.psnr == psnr(after.image, as_uint8(image[None].numpy())[0])
        assert np.array_equal(after.ws, np.repeat(after.ws[:1], 6, 0)) == (space == "w")
        drawn = generator.synthesis(torch.from_numpy(after.ws)[None], "const")
        assert np.abs(as_uint8(drawn.numpy())[0].astype(int) - after.image).max() <= 1


def test_conjugate_gradients_solve_each_system_by_itself() -> None:
    factors = torch.randn(3, 6, 6, dtype=torch.float64)
    matrices, b = factors @ factors.mT + torch.eye(6, dtype=torch.float64), torch.randn(3, 1, 6, dtype=torch.float64)
    solution = torch.linalg.solve(matrices, b.mT).mT
    torch.testing.assert_close(conjugate_gradients(lambda x: x @ matrices, b, 6), solution, rtol=1e-6, atol=1e-6)
    found = conjugate_gradients(lambda x: x @ matrices, b, 1, lambda x: x @ torch.linalg.inv(matrices))
    torch.testing.assert_close(found, solution, rtol=1e-6, atol=1e-6)


def test_one_round_finds_the_solution_of_a_linear_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    """With as many steps as unknowns, Gauss-Newton solves least squares at once."""

    class Linear:
        cfg = tiny_generator().cfg
        matrix = torch.randn(6 * 7, 3 * 16 * 16)

        def synthesis(self, ws: Tensor, _: str) -> Tensor:
            return (ws.flatten(1) @ self.matrix).reshape(-1, 3, 16, 16)

    monkeypatch.setattr(refinement, "ROUNDS", (43, 43))
    monkeypatch.setattr(refinement, "DAMPING", 1e-6)
    images, ws = 0.9 * (2 * torch.rand(2, 3, 16, 16) - 1), torch.randn(2, 6, 7)
    flat = Curvature(torch.eye(42)[:1], torch.ones(1), torch.ones(1))
    found = Refiner(Linear(), OBJECTIVE, flat, RefinementSettings("w+", 43)).refine(images, ws)  # type: ignore[arg-type]
    expected = torch.linalg.lstsq(Linear.matrix.T, images.flatten(1).T).solution.T
    torch.testing.assert_close(torch.from_numpy(np.stack([row.ws for row in found])).flatten(1), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("steps", [0, 1, 4, 24, 40, 47])
def test_rounds_have_all_steps_and_grow(steps: int) -> None:
    counts = [count for _, count in rounds(steps)]
    assert [done for done, _ in rounds(steps)] == [sum(counts[:i]) for i in range(len(counts))]
    assert sum(counts) == steps
    assert counts[:-1] == sorted(counts[:-1])


def test_no_steps_leave_the_latents_as_they_are(generator: Generator) -> None:
    ws, images = pairs(generator, 2)
    found = refiner(generator, 0).refine(images, ws)
    np.testing.assert_array_equal(np.stack([row.ws for row in found]), ws.numpy())


def test_a_refinement_never_ends_with_a_greater_loss(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    ws, images = pairs(generator, 4)
    far = ws + 3 * torch.randn_like(ws)
    monkeypatch.setattr(refinement, "DAMPING", 0.0)  # such steps go far
    found = refiner(generator, 9).refine(images, far)
    after = loss(generator, np.stack([row.ws for row in found]), images)
    assert (after <= loss(generator, far.numpy(), images) * (1 + 1e-5)).all()


def test_no_picture_has_a_part_in_the_result_of_another(generator: Generator) -> None:
    ws, images = pairs(generator, 3)
    three = refiner(generator, 3)
    together = three.refine(images, ws)
    for i, row in enumerate(together):
        alone = three.refine(images[i : i + 1], ws[i : i + 1])[0]
        np.testing.assert_allclose(alone.ws, row.ws, atol=1e-3)


def test_the_same_pictures_give_the_same_bits(generator: Generator) -> None:
    ws, images = pairs(generator, 3)
    four = refiner(generator, 4)
    first, again = four.refine(images, ws), four.refine(images, ws)
    assert [row.ws.tobytes() for row in first] == [row.ws.tobytes() for row in again]


@pytest.mark.parametrize("wrong", [("z", 1), ("w", -1)])
def test_settings_out_of_range_are_refused(wrong: tuple[object, ...]) -> None:
    with pytest.raises(InputError):
        RefinementSettings(*wrong)  # type: ignore[arg-type]
