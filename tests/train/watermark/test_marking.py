"""A small generator is marked: its images carry the key, stay close to the original's, and only its noise maps change."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stylert.core.errors import InputError
from stylert.models.checkpoint import GeneratorWeights, generator_module
from stylert.models.stylegan2.networks import Generator
from stylert.train.watermark import fine_tuning
from stylert.train.watermark.decoder import Decoder
from stylert.train.watermark.fine_tuning import (
    IMAGE_SLACK,
    IMAGE_WEIGHT,
    PART,
    PART_SLACK,
    PART_WEIGHT,
    TuningSettings,
    excess,
    fine_tune,
    squared_difference,
)
from stylert.train.watermark.marking import MarkSettings, drawn_images, mark_generator, share_read
from stylert.train.watermark.residual import ResidualNetwork
from tests.conftest import random_arrays, small_config

KEY = (1, 0, 0, 1, 1, 0, 1, 0)
SETTINGS = MarkSettings(5, images=256, decoder_steps=80, test_images=64, tuning=TuningSettings(steps=80, psnr=24, lr=6e-3))


def small_generator(rng: np.random.Generator, **changes: object) -> Generator:
    cfg = small_config(resolution=32, **changes)
    return generator_module(GeneratorWeights(cfg, random_arrays(cfg, rng), {}))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"img_channels": 1, "c_dim": 3, "architecture": "resnet"}], ids=["rgb", "grey"])
def test_a_marked_generator_draws_the_key_and_nearly_the_same_images(changes: dict[str, object]) -> None:
    # How well a mark of so few steps is read depends on the random network. So it is always the same.
    generator = small_generator(np.random.default_rng(2), **changes)
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    marked = mark_generator(generator, KEY, SETTINGS)
    assert marked.bits_read > 0.9
    assert 0.25 < marked.bits_by_chance < 0.75
    assert marked.psnr[0] > 21
    after = marked.generator.state_dict()
    assert set(after) == set(before)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    layers = [f"synthesis.b{resolution}.{layer}" for resolution in (16, 32) for layer in ("conv0", "conv1")]
    assert changed == {f"{layer}.{part}" for layer in layers for part in ("noise_const", "noise_strength")}
    for layer in layers:
        assert float(after[f"{layer}.noise_const"].square().mean()) == pytest.approx(1, abs=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())
    images = drawn_images(marked.generator, 500, 32)
    assert share_read(marked.decoder, images, KEY) > 0.85
    assert share_read(marked.decoder, images, [1 - bit for bit in KEY]) < 0.15
    assert {(view.length, view.mirrored) for view in marked.views} == {
        (n, side) for n in range(19, 33) for side in (True, False)
    }


def test_fine_tuning_repeats_with_its_seed_and_leaves_the_random_state(rng: np.random.Generator) -> None:
    generator, decoder = small_generator(rng), Decoder.draw(8, 32, 1, ResidualNetwork())
    state = torch.get_rng_state()
    settings = TuningSettings(steps=3, batch=2, seed=5)
    a, b = (fine_tune(generator, decoder, torch.tensor(KEY), settings) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(p.requires_grad for p in a.parameters())


@pytest.mark.parametrize("architecture", ["skip", "resnet"])
def test_blocks_in_two_parts_draw_the_same_image(rng: np.random.Generator, architecture: str) -> None:
    """The lower blocks run once for the original and the marked network."""
    generator = small_generator(rng, architecture=architecture).requires_grad_(False)
    ws = torch.randn(2, generator.cfg.num_ws, generator.cfg.w_dim)
    resolutions = generator.cfg.block_resolutions
    lower = fine_tuning._through(generator, resolutions[:-2], (None, None), ws)
    image = fine_tuning._image(fine_tuning._through(generator, resolutions[-2:], lower, ws))
    assert torch.equal(image, generator.synthesis(ws, "const"))


def test_no_step_changes_no_image(rng: np.random.Generator) -> None:
    generator = small_generator(rng)
    marked = fine_tune(generator, Decoder.draw(8, 32, 1, ResidualNetwork()), torch.tensor(KEY), TuningSettings(steps=0))
    assert np.abs(drawn_images(marked, 0, 4).astype(int) - drawn_images(generator, 0, 4)).max() <= 1


def test_an_image_and_a_part_of_one_have_bounds_of_their_own() -> None:
    even = torch.full((4, 1, 32, 32), 0.99 * 10 ** (IMAGE_SLACK / 10))
    assert float(excess(even)) == 0
    worst_image = even.clone()
    worst_image[2] *= 1.5
    assert float(excess(worst_image)) == pytest.approx(IMAGE_WEIGHT * (0.99 * 1.5 - 1) / 4, rel=1e-4)
    worst_part = even * 0.1
    worst_part[1, :, PART : 2 * PART, :PART] = 3 * 10 ** (PART_SLACK / 10)
    assert float(excess(worst_part)) == pytest.approx(PART_WEIGHT * 2 / (4 * (32 // PART) ** 2), rel=1e-4)


def test_the_bound_is_the_psnr_of_bytes() -> None:
    assert 10 * np.log10(255**2 / (squared_difference(36.5) * 127.5**2)) == pytest.approx(36.5)


@pytest.mark.parametrize(("changes", "words"), [({"img_channels": 4}, "grey or RGB"), ({"resolution": 8}, "hold no mark")])
def test_a_network_that_cannot_be_marked_is_refused(rng: np.random.Generator, changes: dict[str, int], words: str) -> None:
    cfg = small_config(**changes)
    with pytest.raises(InputError, match=words):
        mark_generator(generator_module(GeneratorWeights(cfg, random_arrays(cfg, rng), {})), KEY, SETTINGS)
