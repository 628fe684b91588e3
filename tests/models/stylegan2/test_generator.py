"""The generator equals the papers' formulas in float64 NumPy; noise, half precision and clamping."""

import numpy as np
import pytest
import torch

from stylert.models.stylegan2.config import GeneratorConfig
from stylert.models.stylegan2.generator import Generator
from tests.models.stylegan2.tiny import tiny_generator


@pytest.mark.parametrize(("resolution", "base", "millions"), [(1024, 32768, 30.37), (256, 16384, 24.77)])
def test_parameter_counts_are_the_published_ones(resolution, base, millions):
    with torch.device("meta"):
        generator = Generator(GeneratorConfig(resolution, channel_base=base))
    assert sum(p.numel() for p in generator.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)


@pytest.mark.parametrize("labels", [0, 3])
def test_generator_equals_the_reference(reference, randomize, rng, labels):
    generator = randomize(tiny_generator(c_dim=labels))
    z, c = rng.normal(size=(3, 5)), np.eye(3)[rng.integers(0, 3, 3)] if labels else None
    paper = reference(generator)
    w = paper.mapping(z, c)
    z, c = torch.from_numpy(z), None if c is None else torch.from_numpy(c)
    ws = generator.mapping(z, c)
    np.testing.assert_allclose(ws.detach().numpy(), np.repeat(w[:, None], 6, 1), rtol=1e-3, atol=1e-4)
    for mode, noise in (("const", True), ("none", False)):
        image = generator.synthesis(ws, mode).detach().numpy()
        expected = paper.synthesis(ws.detach().double().numpy(), 16, noise)
        np.testing.assert_allclose(image, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert torch.equal(generator(z, c), generator.synthesis(ws, "const"))


def test_every_layer_reads_its_own_latent(reference, randomize, rng):
    generator = randomize(tiny_generator())
    ws = rng.normal(size=(2, 6, 7))
    expected = reference(generator).synthesis(ws, 16)
    image = generator.synthesis(torch.from_numpy(ws), "const").detach().numpy()
    np.testing.assert_allclose(image, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_noise_is_fixed_absent_or_fresh(randomize, seed):
    torch.manual_seed(seed)
    generator = randomize(tiny_generator())
    z = torch.randn(1, 5).repeat(2, 1)
    const, none, random = (generator(z, noise_mode=m).detach() for m in ("const", "none", "random"))
    assert torch.equal(const, generator(z, noise_mode="const"))
    assert torch.equal(none, generator(z, noise_mode="none"))
    assert not torch.equal(random, generator(z, noise_mode="random"))
    assert not torch.equal(const, none)
    assert not torch.allclose(random[0], random[1]), "each sample of a batch has its own noise"


@pytest.mark.parametrize(("half", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.06)])
def test_half_precision_stays_finite_and_close(half, tolerance, seed):
    torch.manual_seed(seed)
    generator = tiny_generator(num_fp16_res=2, conv_clamp=256.0, channel_base=256, channel_max=32)
    ws = torch.randn(4, 6, 7)
    for scale in (1, 10):
        exact = generator.synthesis(ws * scale, "const")
        image = generator.synthesis(ws * scale, "const", half)
        assert image.dtype == torch.float32
        assert image.isfinite().all()
        assert (image - exact).square().mean().sqrt() < tolerance * exact.square().mean().sqrt()
        assert not torch.equal(image, exact)


def test_float16_survives_weights_and_styles_beyond_its_range(seed):
    """Demodulation makes a layer blind to the scale of its weights; float16 must not see that scale either."""
    torch.manual_seed(seed)
    generator = tiny_generator(num_fp16_res=2, conv_clamp=256.0)
    for block in (generator.synthesis.b8, generator.synthesis.b16):
        for layer in (block.conv0, block.conv1):
            layer.weight.data.mul_(1e5)
            layer.affine.weight.data.mul_(1e4)
            layer.affine.bias.data.mul_(1e4)
    ws = torch.randn(4, 6, 7)
    exact, image = generator.synthesis(ws, "const"), generator.synthesis(ws, "const", torch.float16)
    assert (image - exact).square().mean().sqrt() < 0.02 * exact.square().mean().sqrt()


@pytest.mark.parametrize("half", [None, torch.float16, torch.bfloat16])
def test_clamp_bounds_every_layer(half, seed):
    torch.manual_seed(seed)
    generator = tiny_generator(num_fp16_res=2, conv_clamp=0.5)
    largest = []
    for name, module in generator.synthesis.named_modules():
        if name.endswith(("conv0", "conv1", "torgb")):
            module.register_forward_hook(lambda m, i, y: largest.append(y.abs().max().item()))
    generator.synthesis(torch.randn(2, 6, 7) * 10, "const", half)
    assert len(largest) == 8
    assert max(largest) == 0.5


def test_latents_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"ws must be \[N, 6, 7\]"):
        tiny_generator().synthesis(torch.ones(1, 5, 7))
