"""Training pairs cover W+, the same seed trains the same encoder, and a trained one knows the generator's images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stylert.core.errors import InputError
from stylert.models.stylegan2.networks import Generator
from stylert.train.encoder.pairs import LEAST_PSI, draw_latents, draw_pairs
from stylert.train.encoder.training import EncoderSettings, HeldOut, held_out, latent_distance, train_encoder
from stylert.train.projection.objective import Objective
from stylert.train.projection.starts import LatentStatistics, latent_statistics
from tests.models.stylegan2.tiny import tiny_generator
from tests.train.projection.pixel_distance import PixelDistance

pytest.importorskip("efficientnet_lite_pytorch")

OBJECTIVE = Objective(PixelDistance(), 50.0)


@pytest.fixture(scope="module")
def statistics(generator: Generator) -> LatentStatistics:
    return latent_statistics(generator)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_an_image_of_a_pair_is_that_of_its_latents(generator: Generator) -> None:
    ws, images = draw_pairs(generator, 5, draws())
    assert torch.equal(images, generator.synthesis(ws, "const").clamp(-1, 1))


def test_some_pairs_are_mixed_and_some_truncated(generator: Generator) -> None:
    ws = draw_latents(generator, 400, draws())
    changes = (ws[:, 1:] - ws[:, :-1]).abs().amax(2) > 1e-6  # one boundary of a mixed pair, none of a plain one
    assert changes.sum(1).max() == 1
    assert 0.35 < changes.any(1).float().mean() < 0.65
    assert changes.any(0).all()  # each boundary occurs
    z = torch.randn(2 * 400, generator.cfg.z_dim, generator=draws())
    full = generator.mapping(z)[:400, 0]
    average = generator.mapping.w_avg
    psi = ((ws[:, 0] - average) * (full - average)).sum(1) / (full - average).square().sum(1)
    torch.testing.assert_close(ws[:, 0], average + psi[:, None] * (full - average), atol=1e-5, rtol=1e-5)
    assert psi.min() >= LEAST_PSI - 1e-4
    assert 0.35 < (psi > 0.9999).float().mean() < 0.65


def test_pairs_of_a_network_with_labels_are_of_all_classes() -> None:
    torch.manual_seed(0)
    generator = tiny_generator(c_dim=3).requires_grad_(False)
    seen: list[Tensor] = []
    generator.mapping.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    draw_pairs(generator, 60, draws())
    assert seen[0].shape == (120, 3)
    assert torch.equal(seen[0].sum(1), torch.ones(120))
    assert (seen[0].sum(0) > 20).all()


def test_the_distance_of_latents_is_one_for_the_average(statistics: LatentStatistics) -> None:
    ws = statistics.samples[:, None].expand(-1, 6, -1)
    distance = latent_distance(statistics.mean.expand_as(ws), ws, statistics)
    assert float(distance.mean()) == pytest.approx(1, abs=1e-4)


def test_the_same_seed_trains_the_same_encoder(generator: Generator, statistics: LatentStatistics) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first, again, other = (
        train_encoder(generator, statistics, OBJECTIVE, EncoderSettings(2, 2, seed=seed)).state_dict() for seed in (3, 3, 4)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.slow
def test_a_trained_encoder_draws_fresh_images_again_better_than_the_average(
    generator: Generator, statistics: LatentStatistics
) -> None:
    untrained, trained = (
        held_out(
            train_encoder(generator, statistics, OBJECTIVE, EncoderSettings(steps, 8, rate)),
            generator,
            statistics,
            OBJECTIVE,
            32,
        )
        for steps, rate in ((1, 1e-9), (80, 2e-3))
    )
    assert untrained.latents == pytest.approx(1, abs=0.25)
    assert trained.psnr > untrained.psnr + 1.5
    assert trained.distance < 0.7 * untrained.distance


def test_held_out_figures_are_those_of_a_perfect_encoder(generator: Generator, statistics: LatentStatistics) -> None:
    """In place of an encoder, a function that knows the latents."""
    known: list[Tensor] = []
    hook = generator.mapping.register_forward_hook(lambda *args: known.append(args[2]))
    try:
        found = held_out(lambda _: known[-1], generator, statistics, OBJECTIVE, 20, 0.7)  # type: ignore[arg-type]
    finally:
        hook.remove()
    assert found == HeldOut(100.0, 0.0, 0.0)
    assert sum(len(ws) for ws in known) == 20


def test_the_learning_rate_rises_and_falls_to_zero() -> None:
    settings = EncoderSettings(1000, rate=0.5)
    rates = [settings.learning_rate(step) for step in range(1000)]
    assert 0 < rates[0] < 0.05
    assert rates[999] < 1e-5
    assert 0.49 < max(rates) <= 0.5
    assert rates.index(max(rates)) < 50


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch": 0}, {"rate": 0.0}, {"rate": float("inf")}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError):
        EncoderSettings(**wrong)  # type: ignore[arg-type]


def test_images_of_other_channels_are_refused(statistics: LatentStatistics) -> None:
    with pytest.raises(InputError, match="only grey and RGB images"):
        train_encoder(tiny_generator(img_channels=4), statistics, OBJECTIVE, EncoderSettings(1, 1))
