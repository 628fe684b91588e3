"""A tiny network's own images are recovered, in every space and with both noises, and a projection depends on its inputs alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from stylert.core.errors import InputError
from stylert.core.images.grids import as_uint8
from stylert.models.stylegan2.networks import Generator
from stylert.train.projection.noise_maps import noise_regularization
from stylert.train.projection.objective import LPIPS_SIDE, Objective
from stylert.train.projection.projector import NOISE_WEIGHT, Projection, ProjectionSettings, Projector
from stylert.train.projection.schedule import Schedule
from stylert.train.projection.starts import SAMPLES, LatentStatistics, latent_statistics, nearest_latents
from tests.models.stylegan2.tiny import tiny_generator
from tests.train.projection.pixel_distance import PixelDistance


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    network = tiny_generator()
    for name, parameter in network.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.2)
        if "torgb.weight" in name:
            parameter.data.mul_(0.4)  # images within [-1, 1]
    return network.requires_grad_(False)


@pytest.fixture(scope="module")
def statistics(generator: Generator) -> LatentStatistics:
    return latent_statistics(generator)


def projector(
    generator: Generator, statistics: LatentStatistics, steps: int = 100, pixel_weight: float = 0.0, **settings: object
) -> Projector:
    chosen = ProjectionSettings(schedule=Schedule(steps), **settings)  # type: ignore[arg-type]
    return Projector(generator, statistics, Objective(PixelDistance(), pixel_weight), chosen)


def own_image(generator: Generator, statistics: LatentStatistics, number: int) -> Tensor:
    """An image of the network `[1, 3, 16, 16]` that 8 bits hold exactly."""
    w = statistics.samples[number]
    image = as_uint8(generator.synthesis(w.expand(1, 6, -1), "const").numpy())
    return (torch.from_numpy(image).permute(0, 3, 1, 2).float() - 127.5) / 127.5


def same(a: Projection, b: Projection) -> bool:
    return a.ws.tobytes() == b.ws.tobytes() and a.image.tobytes() == b.image.tobytes() and a.psnr == b.psnr


@pytest.mark.slow
def test_own_images_are_recovered_in_w_from_the_average(generator: Generator, statistics: LatentStatistics) -> None:
    run = projector(generator, statistics, 150)
    for number in (5000, 5001):
        image = own_image(generator, statistics, number)
        average = generator.synthesis(statistics.mean.expand(1, 6, -1), "const")
        assert PixelDistance()(average, image) > 10 * 4 / 10**3.5  # less than 25 dB
        found = run.project(run.objective.target(image), statistics.mean[None])
        assert found.psnr > 35
        assert np.array_equal(found.ws, np.repeat(found.ws[:1], 6, 0))


def test_the_image_is_that_of_the_latents_with_constant_noise(generator: Generator, statistics: LatentStatistics) -> None:
    run = projector(generator, statistics, 10, space="w+", noise="optimised")
    found = run.project(run.objective.target(own_image(generator, statistics, 1)), statistics.samples[7:9])
    drawn = as_uint8(generator.synthesis(torch.from_numpy(found.ws)[None], "const").numpy())[0]
    np.testing.assert_array_equal(found.image, drawn)


@pytest.mark.slow
def test_w_plus_comes_nearer_to_a_picture_that_no_single_w_gives(generator: Generator, statistics: LatentStatistics) -> None:
    ws = torch.stack([statistics.samples[i] for i in range(6)])[None]
    image = generator.synthesis(ws, "const").clamp(-1, 1)
    single, plus = (projector(generator, statistics, 60, space=space) for space in ("w", "w+"))
    start = statistics.mean[None]
    target = single.objective.target(image)
    one, six = single.project(target, start), plus.project(target, start)
    assert six.psnr > one.psnr + 3
    assert not np.array_equal(six.ws[0], six.ws[5])


@pytest.mark.parametrize("weight", [0.0, NOISE_WEIGHT])
def test_optimised_noise_takes_over_the_picture_unless_the_regulariser_keeps_it_noise(
    weight: float, generator: Generator, statistics: LatentStatistics
) -> None:
    """The picture was drawn with other noise than the network's own."""
    image = generator.synthesis(statistics.samples[3].expand(1, 6, -1), "random").clamp(-1, 1)
    run = projector(generator, statistics, 60, noise="optimised", noise_weight=weight)
    found = run.project(run.objective.target(image), statistics.samples[3:4])
    assert found.noise_psnr is not None
    assert [noise.shape for noise in found.noise.values()] == [(4, 4), (8, 8), (8, 8), (16, 16), (16, 16)]
    for noise in found.noise.values():
        np.testing.assert_allclose([noise.mean(), noise.std()], [0, 1], atol=1e-5)
    loss = float(noise_regularization([torch.from_numpy(noise)[None, None] for noise in found.noise.values()]))
    drawn = [torch.randn(100, 1, *noise.shape) for noise in found.noise.values()]
    if weight:
        assert loss < noise_regularization(drawn).min()
    else:
        assert found.noise_psnr > found.psnr + 6


def test_the_best_of_several_starts_is_kept(generator: Generator, statistics: LatentStatistics) -> None:
    """The first start is far away and a single step moves little, so the second one wins, which is the answer itself."""
    run = projector(generator, statistics, 1)
    far, answer = statistics.mean + 40, statistics.samples[11]
    found = run.project(run.objective.target(own_image(generator, statistics, 11)), torch.stack([far, answer]))
    np.testing.assert_allclose(found.ws[0], answer, atol=1e-6)


def test_after_the_trial_the_best_start_goes_on_as_if_it_had_been_alone(
    generator: Generator, statistics: LatentStatistics
) -> None:
    """The optimizer's moments of the best start go on, too."""
    settings = ProjectionSettings(schedule=Schedule(24, noise=0.0))
    run = Projector(generator, statistics, Objective(PixelDistance(), 0.0), settings)
    target, good = run.objective.target(own_image(generator, statistics, 21)), statistics.samples[21:22] + 0.5
    alone = run.project(target, good)
    among = run.project(target, torch.cat([good + 30, good, good - 30]))
    np.testing.assert_allclose(among.ws, alone.ws, atol=1e-3)
    assert np.abs(alone.ws - good.numpy()).max() > 0.1


def test_a_projection_does_not_depend_on_those_before_it(generator: Generator, statistics: LatentStatistics) -> None:
    run = projector(generator, statistics, 8, pixel_weight=1.0, space="w+", noise="optimised")
    targets = [run.objective.target(own_image(generator, statistics, i)) for i in (1, 2)]
    alone = run.project(targets[1], statistics.samples[:2])
    torch.manual_seed(1)
    images: list[np.ndarray] = []
    run.project(targets[0], statistics.samples[:2])
    after = run.project(targets[1], statistics.samples[:2], on_image=images.append)
    assert same(alone, after)
    assert all(np.array_equal(alone.noise[name], after.noise[name]) for name in alone.noise)
    other = projector(generator, statistics, 8, pixel_weight=1.0, space="w+", noise="optimised", seed=1)
    assert not same(alone, other.project(targets[1], statistics.samples[:2]))


def test_progress_and_images_tell_every_stage(
    generator: Generator, statistics: LatentStatistics, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, images = [], []
    monkeypatch.setattr("stylert.train.projection.projector.FRAMES", 4)
    run = projector(generator, statistics, 10, space="w+")
    target = run.objective.target(own_image(generator, statistics, 1))
    found = run.project(target, statistics.mean[None], lambda *done: steps.append(done), images.append, "a")
    assert steps == [("a", i, 20) for i in range(1, 21)]
    assert len(images) == 2 * 4
    assert images[0].shape == (16, 16, 3)
    np.testing.assert_array_equal(images[-1], found.image)


def test_nearest_latents_are_the_nearest_and_the_best_comes_first(generator: Generator, statistics: LatentStatistics) -> None:
    objective = Objective(PixelDistance(), 0.0)
    images = [own_image(generator, statistics, i) for i in (3, 38)]
    counts: list[tuple[str, int, int]] = []
    found = nearest_latents(
        generator, statistics, objective, [objective.target(i) for i in images], 40, 3, lambda *done: counts.append(done)
    )
    drawn = generator.synthesis(statistics.samples[:40, None].expand(-1, 6, -1), "const")
    for image, w, number in zip(images, found, (3, 38), strict=True):
        order = (drawn.clamp(-1, 1) - image.clamp(-1, 1)).square().mean((1, 2, 3)).argsort()
        assert order[0] == number
        assert torch.equal(w, statistics.samples[order[:3]])
    assert counts[-1] == ("random latents", 40, 40)


def test_sigma_is_the_root_of_the_mean_squared_distance(generator: Generator, statistics: LatentStatistics) -> None:
    w = statistics.samples.double().numpy()
    assert w.shape == (SAMPLES, 7)
    np.testing.assert_allclose(statistics.mean, w.mean(0), atol=1e-5)
    np.testing.assert_allclose(statistics.sigma, np.sqrt(((w - w.mean(0)) ** 2).sum(1).mean()), rtol=1e-5)
    conditional = latent_statistics(tiny_generator(c_dim=3).requires_grad_(False))
    assert conditional.samples.shape == (SAMPLES, 7)


def test_the_pixel_term_adds_its_weight(generator: Generator, statistics: LatentStatistics) -> None:
    image = own_image(generator, statistics, 4)
    other = own_image(generator, statistics, 5)
    plain, weighed = Objective(PixelDistance(), 0.0), Objective(PixelDistance(), 3.0)
    torch.testing.assert_close(weighed(other, weighed.target(image)), 4 * plain(other, plain.target(image)))


def test_large_images_are_averaged_down_before_they_are_compared() -> None:
    distance = PixelDistance()
    Objective(distance, 0.0).target(torch.zeros(1, 3, 4 * LPIPS_SIDE, 4 * LPIPS_SIDE))
    assert distance.sides == (LPIPS_SIDE, LPIPS_SIDE)


@pytest.mark.parametrize("wrong", [{"space": "z"}, {"noise": "random"}])
def test_an_unknown_space_or_noise_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(InputError):
        ProjectionSettings(**wrong)  # type: ignore[arg-type]
