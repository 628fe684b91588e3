"""The generator equals the paper's formulas in float64 for random configurations, and follows translations and rotations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stylert.models.stylegan3.config import GeneratorConfig
from stylert.models.stylegan3.networks import Generator, SynthesisInput
from tests.models.stylegan2.float64_reference import Reference as StyleGan2Reference
from tests.models.stylegan3.float64_reference import Reference
from tests.models.stylegan3.tiny import configurations, random_transforms, randomized, rigid_transform, tiny_config

seeds = st.integers(0, 2**31)


def inputs(cfg: GeneratorConfig, seed: int, n: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents, and one transform per sample."""
    rng = np.random.default_rng(seed)
    ws = torch.from_numpy(rng.standard_normal((n, cfg.num_ws, cfg.w_dim)).astype(np.float32))
    return ws, random_transforms(rng, n)


@settings(max_examples=60)
@given(cfg=configurations(), seed=seeds)
def test_features_and_every_layer_equal_the_formulas(cfg: GeneratorConfig, seed: int) -> None:
    """Each part on the exact signal: layers behind one another can enlarge a rounding as they enlarge any small change."""
    generator = randomized(cfg, seed)
    ws, transform = inputs(cfg, seed)
    exact, w = Reference(generator, cfg), ws.double().numpy()
    # The frame is divided by the length of its first two numbers, so a short pair has a coarse angle and a coarse shift.
    pair = exact.linear("synthesis.input.affine", w[:, 0])[:, :2]
    features_bound = 1e-5 / min(1.0, float(np.linalg.norm(pair, axis=1).min()))
    for matrices in (None, transform):
        frames = np.tile(np.eye(3), (len(w), 1, 1)) if matrices is None else matrices.double().numpy()
        x = exact.features(w[:, 0], frames)
        features = generator.synthesis.input(ws[:, 0], matrices).numpy()
        assert np.abs(features - x).max() <= features_bound * np.abs(x).max()
    for i, layer in enumerate(cfg.layers()):
        expected = exact.layer(i, x, w[:, i + 1])
        y = getattr(generator.synthesis, layer.name)(torch.from_numpy(x).float(), ws[:, i + 1]).numpy()
        assert y.shape == expected.shape
        assert np.abs(y - expected).max() <= 1e-5 * np.abs(expected).max()
        x = expected


@settings(max_examples=20)
@given(cfg=configurations(), seed=seeds)
def test_synthesis_is_its_parts_one_after_another(cfg: GeneratorConfig, seed: int) -> None:
    synthesis = randomized(cfg, seed).synthesis
    ws, transform = inputs(cfg, seed)
    x = synthesis.input(ws[:, 0], transform)
    for i, layer in enumerate(cfg.layers()):
        x = getattr(synthesis, layer.name)(x, ws[:, i + 1])
    image = synthesis(ws, transform)
    assert image.shape == (2, cfg.img_channels, cfg.resolution, cfg.resolution)
    assert torch.equal(image, x * cfg.output_scale)


@pytest.mark.parametrize("make", [GeneratorConfig, GeneratorConfig.configuration_r], ids=["t", "r"])
def test_the_standard_configurations_equal_the_formulas(make: Callable[..., GeneratorConfig]) -> None:
    """All 14 layers with their own bands and margins, and few channels."""
    cfg = make(64, channel_base=256, channel_max=6, w_dim=8, z_dim=8)
    generator = randomized(cfg, 11)
    ws, transform = inputs(cfg, 12, n=1)
    image = generator.synthesis(ws, transform).numpy()
    expected = Reference(generator, cfg).synthesis(ws.double().numpy(), transform.double().numpy())
    assert np.abs(image - expected).max() <= 1e-5 * np.abs(expected).max()


@settings(max_examples=20)
@given(cfg=configurations(), seed=seeds)
def test_mapping_equals_the_formulas_and_feeds_every_layer(cfg: GeneratorConfig, seed: int) -> None:
    generator = randomized(cfg, seed)
    rng = np.random.default_rng(seed)
    z, c = rng.standard_normal((2, cfg.z_dim)), np.eye(cfg.c_dim)[[0, 2]] if cfg.c_dim else None
    labels = None if c is None else torch.from_numpy(c)
    w = StyleGan2Reference(generator).mapping(z, c)
    ws = generator.mapping(torch.from_numpy(z), labels, psi=0.7, cutoff=2).double().numpy()
    w_avg = generator.mapping.w_avg.double().numpy()
    expected = np.repeat(w[:, None], cfg.num_ws, 1)
    expected[:, :2] = w_avg + 0.7 * (expected[:, :2] - w_avg)
    np.testing.assert_allclose(ws, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    image = generator(torch.from_numpy(z), labels, psi=0.7, cutoff=2)
    assert torch.equal(image, generator.synthesis(torch.from_numpy(ws).float()))


def test_the_stored_transform_serves_where_none_is_given() -> None:
    cfg = tiny_config()
    generator = randomized(cfg, 1)
    ws, transform = inputs(cfg, 1)
    plain = generator.synthesis(ws)
    assert torch.equal(plain, generator.synthesis(ws, torch.eye(3)))
    generator.synthesis.input.transform.copy_(transform[0])
    moved = generator.synthesis(ws)
    assert torch.equal(moved, generator.synthesis(ws, transform[:1].expand(2, -1, -1)))
    assert not torch.allclose(moved, plain)


def test_the_first_frequencies_fill_the_disc_of_the_first_band_and_the_frame_begins_at_rest() -> None:
    cfg = tiny_config(channel_base=65536, channel_max=4096, first_cutoff=1.5)
    torch.manual_seed(0)
    features = SynthesisInput(cfg)
    radii = features.freqs.norm(dim=1)
    assert radii.max() <= 1.5
    assert (radii < 1.5 / math.sqrt(2)).float().mean() == pytest.approx(0.5, abs=0.04)  # half of the area
    assert features.freqs.mean(0).abs().max() < 0.08
    assert features.phases.min() >= -0.5
    assert features.phases.max() <= 0.5
    assert torch.equal(features.affine(torch.randn(3, 7)), torch.tensor([[1.0, 0, 0, 0]]).expand(3, -1))


def test_training_moves_the_average_of_magnitudes() -> None:
    cfg = tiny_config(magnitude_ema_beta=0.75)
    generator = randomized(cfg, 2)
    ws, _ = inputs(cfg, 2)
    layer = getattr(generator.synthesis, cfg.layers()[0].name)
    before = float(layer.magnitude_ema)
    mean_square = float(generator.synthesis.input(ws[:, 0]).square().mean())
    generator.synthesis(ws)
    assert float(layer.magnitude_ema) == before
    generator.synthesis(ws, update_magnitude=True)
    assert float(layer.magnitude_ema) == pytest.approx(0.75 * before + 0.25 * mean_square, rel=1e-5)


@pytest.mark.parametrize(("half", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.06)])
def test_half_precision_stays_close_whatever_the_scale_of_weights_and_latents(half: torch.dtype, tolerance: float) -> None:
    cfg = tiny_config(channel_base=512, channel_max=16, num_fp16_res=4)
    assert all(layer.is_fp16 for layer in cfg.layers())
    generator = randomized(cfg, 3)
    ws, _ = inputs(cfg, 3)
    for scale in (1.0, 1e4):
        for layer in cfg.layers()[:-1]:
            getattr(generator.synthesis, layer.name).weight.mul_(scale)
        exact, image = generator.synthesis(ws), generator.synthesis(ws, half=half)
        assert image.dtype == torch.float32
        assert image.isfinite().all()
        assert not torch.equal(image, exact)
        assert (image - exact).square().mean().sqrt() < tolerance * exact.square().mean().sqrt()


def test_latents_of_another_shape_are_refused() -> None:
    cfg = tiny_config()
    with pytest.raises(ValueError, match=r"ws must be \[N, 6, 7\]"):
        Generator(cfg).synthesis(torch.zeros(1, 5, 7))


# --- equivariance ----------------------------------------------------------------------------------------------------


def equivariance(image: torch.Tensor, expected: torch.Tensor, peak_to_peak: float) -> float:
    """PSNR in dB over the pixels that both images have (Karras et al. 2021, appendix E)."""
    return 10 * math.log10(peak_to_peak**2 / float((image - expected).double().square().mean()))


def translated_pair(cfg: GeneratorConfig, shift: int) -> float:
    """EQ-T of a whole number of pixels, averaged over latents: the image of the moved input against the moved image."""
    generator = randomized(cfg, 5)
    torch.manual_seed(6)
    ws = torch.randn(4, 1, cfg.w_dim).expand(-1, cfg.num_ws, -1)
    image = generator.synthesis(ws)
    moved = generator.synthesis(ws, rigid_transform(0.0, (shift / cfg.resolution, -2 * shift / cfg.resolution)))
    peak = float(image.max() - image.min())
    return equivariance(moved[:, :, : -2 * shift, shift:], image[:, :, 2 * shift :, :-shift], peak)


def test_translated_input_gives_the_translated_image() -> None:
    """The filters make it so. With single taps and no higher rate, the measure falls."""
    base: dict[str, Any] = {"resolution": 32, "channel_base": 512, "channel_max": 12, "num_layers": 6, "margin_size": 10}
    good = translated_pair(tiny_config(**base), 3)
    aliased = translated_pair(tiny_config(**base, filter_size=1, lrelu_upsampling=1), 3)
    assert good > 80
    assert aliased < 50


def test_configuration_r_follows_a_quarter_turn() -> None:
    """A quarter turn maps pixels on pixels. Radial filters and 1x1 kernels follow it, 3x3 kernels do not."""
    base: dict[str, Any] = {"resolution": 32, "channel_base": 512, "channel_max": 12, "num_layers": 6, "margin_size": 10}
    values = {}
    for kernel, radial in ((1, True), (3, False)):
        cfg = tiny_config(**base, conv_kernel=kernel, use_radial_filters=radial)
        generator = randomized(cfg, 7)
        torch.manual_seed(8)
        ws = torch.randn(4, 1, cfg.w_dim).expand(-1, cfg.num_ws, -1)
        image, turned = generator.synthesis(ws), generator.synthesis(ws, rigid_transform(math.pi / 2, (0.0, 0.0)))
        values[kernel] = equivariance(turned, torch.rot90(image, 1, (2, 3)), float(image.max() - image.min()))
    assert values[1] > 100
    assert values[3] < 50
