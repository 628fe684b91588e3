"""Tuning moves the images of the pivots to their pictures, and keeps others as the weight of the locality says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stylert.core.errors import InputError
from stylert.models.stylegan2.networks import Generator
from stylert.train.projection.objective import Objective
from stylert.train.projection.pivotal_tuning import TuningSettings, _near, tune
from stylert.train.projection.starts import LatentStatistics, latent_statistics
from tests.models.stylegan2.tiny import tiny_generator
from tests.train.projection.pixel_distance import PixelDistance

OBJECTIVE = Objective(PixelDistance(), 0.0)


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    return tiny_generator().requires_grad_(False)


@pytest.fixture(scope="module")
def statistics(generator: Generator) -> LatentStatistics:
    return latent_statistics(generator)


def pivots(statistics: LatentStatistics, count: int) -> Tensor:
    return statistics.samples[:count, None].expand(-1, 6, -1).contiguous()


def images(generator: Generator, ws: Tensor) -> Tensor:
    return generator.synthesis(ws, "const")


def shown(generator: Generator, ws: Tensor) -> Tensor:
    """The images as files hold them."""
    return images(generator, ws).clamp(-1, 1)


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean())


@pytest.mark.slow
def test_pivots_draw_their_pictures_and_other_images_stay_with_locality(
    generator: Generator, statistics: LatentStatistics
) -> None:
    ws = pivots(statistics, 3)
    pictures = shown(generator, ws)
    for i, picture in enumerate(pictures):  # a patch of another color in each
        picture[i, 5 * i : 5 * i + 6, 4:12] += 1
    pictures = pictures.clamp(-1, 1)
    targets = [OBJECTIVE.target(picture[None]) for picture in pictures]
    others = pivots(statistics, 40)[10:]
    before = difference(shown(generator, ws), pictures)
    changed = {}
    for locality in (0.0, 1.0):
        settings = TuningSettings(steps=150, rate=1e-2, locality=locality, batch=2)
        tuned = tune(generator, statistics, OBJECTIVE, ws, targets, settings)
        assert difference(shown(tuned, ws), pictures) < before / (4 if locality == 0 else 1.5)
        changed[locality] = difference(shown(tuned, others), shown(generator, others))
    assert changed[1.0] < changed[0.0] / 2


def test_the_original_and_the_mapping_network_stay(generator: Generator, statistics: LatentStatistics) -> None:
    state = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    ws = pivots(statistics, 1)
    target = OBJECTIVE.target(images(generator, ws) * 0.5)
    tuned = tune(generator, statistics, OBJECTIVE, ws, [target], TuningSettings(steps=2))
    for name, tensor in generator.state_dict().items():
        assert torch.equal(tensor, state[name])
        if name.startswith("mapping.") or name.endswith(("noise_const", "resample_filter")):
            assert torch.equal(tuned.state_dict()[name], tensor)
    assert not any(parameter.requires_grad for parameter in tuned.parameters())
    again = tune(generator, statistics, OBJECTIVE, ws, [target], TuningSettings(steps=2))
    assert all(torch.equal(a, b) for a, b in zip(tuned.state_dict().values(), again.state_dict().values(), strict=True))


def test_the_first_step_follows_the_gradient_of_the_loss_of_the_paper(
    generator: Generator, statistics: LatentStatistics
) -> None:
    """Adam's first step has the size of the learning rate, and the sign of the gradient, in each weight."""
    ws = pivots(statistics, 2)
    pictures = (images(generator, ws) * 0.5 + 0.1).clamp(-0.99, 0.99)  # neither white nor black
    reference = tiny_generator()
    reference.load_state_dict(generator.state_dict())
    loss = (images(reference, ws) - pictures).square().mean((1, 2, 3)).mean()  # without locality, which is 0 at first
    name = "b8.conv0.weight"
    gradient = torch.autograd.grad(loss, reference.synthesis.get_parameter(name))[0]
    targets = [OBJECTIVE.target(picture[None]) for picture in pictures]
    tuned = tune(generator, statistics, OBJECTIVE, ws, targets, TuningSettings(steps=1, rate=1e-3))
    moved = tuned.synthesis.get_parameter(name) - generator.synthesis.get_parameter(name)
    clear = gradient.abs() > 1e-5
    torch.testing.assert_close(moved[clear], -1e-3 * gradient[clear].sign(), rtol=1e-2, atol=1e-5)


def test_latents_near_a_pivot_have_the_distance_of_random_latents(statistics: LatentStatistics) -> None:
    draws = torch.Generator().manual_seed(0)
    for pivot in (pivots(statistics, 1), pivots(statistics, 1) + torch.arange(6.0)[None, :, None]):
        near = _near(pivot, statistics, draws)
        torch.testing.assert_close((near - pivot).norm(dim=2), torch.full((1, 6), statistics.sigma))
    _near(statistics.samples[:1, None].expand(-1, 6, -1), statistics, draws)


@pytest.mark.parametrize("changes", [{"steps": 0}, {"batch": 0}, {"rate": 0.0}, {"rate": float("nan")}, {"locality": -1.0}])
def test_settings_out_of_range_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(InputError):
        TuningSettings(**changes)  # type: ignore[arg-type]
