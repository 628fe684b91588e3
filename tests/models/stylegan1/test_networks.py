"""The generator equals the paper's formulas in float64 for random configurations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stylert.models.stylegan1.config import GeneratorConfig
from stylert.models.stylegan1.networks import Generator
from tests.models.stylegan1.float64_reference import reference
from tests.models.stylegan1.tiny import configurations, randomized, tiny_config

seeds = st.integers(0, 2**31)


def random_ws(cfg: GeneratorConfig, n: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, cfg.num_ws, cfg.w_dim)).astype(np.float32))


@settings(max_examples=40)
@given(cfg=configurations(), seed=seeds)
def test_every_layer_equals_the_formulas(cfg: GeneratorConfig, seed: int) -> None:
    """Each layer on the exact signal: layers behind one another can enlarge a rounding as they enlarge any small change."""
    generator = randomized(cfg, seed)
    exact, ws = reference(generator), random_ws(cfg, 2, seed)
    x = np.repeat(exact.p["synthesis.b4.input.const"][None], 2, 0)
    for spec in cfg.layers()[:-1]:
        name, w = f"synthesis.{spec.name}", ws[:, spec.ws_index]
        for noise in (False, True):
            y = exact.biased(name, x) if spec.kind == "const" else exact.convolution(name, x, spec.up == 2)
            y = exact.epilogue(name, y, w.double().numpy(), noise)
            actual = generator.synthesis.layer(spec)(torch.from_numpy(x).float(), w, "const" if noise else "none").numpy()
            # A channel that is nearly flat is divided by its own small deviation, rounding and all.
            assert np.abs(actual - y).max() <= 1e-4 * np.abs(y).max()
            assert np.median(np.abs(actual - y)) <= 1e-6 * np.abs(y).max()
        x = y


@settings(max_examples=30)
@given(cfg=configurations(), seed=seeds)
def test_images_equal_the_formulas(cfg: GeneratorConfig, seed: int) -> None:
    generator = randomized(cfg, seed)
    ws = random_ws(cfg, 2, seed)
    for noise in (True, False):
        expected = reference(generator).synthesis(ws.double().numpy(), noise)
        image = generator.synthesis(ws, "const" if noise else "none").numpy()
        assert image.shape == (2, cfg.img_channels, cfg.resolution, cfg.resolution)
        assert np.abs(image - expected).max() <= 1e-5 * max(np.abs(expected).max(), 1)


@settings(max_examples=20)
@given(cfg=configurations(), seed=seeds)
def test_mapping_equals_the_formulas_and_truncates_the_leading_latents(cfg: GeneratorConfig, seed: int) -> None:
    generator = randomized(cfg, seed)
    rng = np.random.default_rng(seed)
    z, c = rng.standard_normal((2, cfg.z_dim)), np.eye(cfg.c_dim)[[0, 2]] if cfg.c_dim else None
    labels = None if c is None else torch.from_numpy(c)
    ws = generator.mapping(torch.from_numpy(z), labels, psi=0.7, cutoff=2).double().numpy()
    expected = np.repeat(reference(generator).mapping(z, c)[:, None], cfg.num_ws, 1)
    w_avg = generator.mapping.w_avg.double().numpy()
    expected[:, :2] = w_avg + 0.7 * (expected[:, :2] - w_avg)
    np.testing.assert_allclose(ws, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    image = generator(torch.from_numpy(z), labels, psi=0.7, cutoff=2)
    assert torch.equal(image, generator.synthesis(torch.from_numpy(ws).float()))


def test_random_noise_differs_from_image_to_image() -> None:
    generator = randomized(tiny_config(), 1)
    ws = random_ws(generator.cfg, 1, 2).expand(2, -1, -1)
    torch.manual_seed(3)
    first, second = generator.synthesis(ws, "random")
    assert not torch.allclose(first, second)
    torch.testing.assert_close(*generator.synthesis(ws, "const"))


def test_a_style_gives_each_channel_its_mean_and_its_deviation() -> None:
    cfg = tiny_config()
    generator = randomized(cfg, 4)
    layer, w = generator.synthesis.layer(cfg.layers()[0]), torch.randn(3, cfg.w_dim)
    scale, offset = layer.affine(w).chunk(2, dim=1)
    y = layer(w, w)
    torch.testing.assert_close(y.mean((2, 3)), offset)
    torch.testing.assert_close(y.std((2, 3), correction=0), scale.abs())


def test_latents_of_another_shape_and_missing_labels_are_refused() -> None:
    cfg = tiny_config(c_dim=2)
    with pytest.raises(ValueError, match=r"ws must be \[N, 6, 7\]"):
        Generator(cfg).synthesis(torch.zeros(1, 5, 7))
    with pytest.raises(ValueError, match=r"takes labels: pass c of shape \[N, 2\]"):
        Generator(cfg)(torch.zeros(1, 5))
