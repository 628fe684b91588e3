"""The networks: official names and sizes, and agreement with the papers' formulas evaluated in float64 NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stylert.models.stylegan2.config import DiscriminatorConfig, GeneratorConfig
from stylert.models.stylegan2.discriminator import Discriminator, minibatch_std
from stylert.models.stylegan2.generator import Generator
from stylert.models.stylegan2.layers import normalize_2nd_moment

TINY = {"channel_base": 64, "channel_max": 6, "mapping_layers": 2}


def tiny_generator(**changes):
    return Generator(GeneratorConfig(**{"resolution": 16, "z_dim": 5, "w_dim": 7, **TINY, **changes})).eval()


def tiny_discriminator(**changes):
    return Discriminator(DiscriminatorConfig(**{"resolution": 16, "mbstd_group_size": 2, **TINY, **changes}))


def generator_keys(resolution, mapping_layers, labels):
    fully_connected = [f"fc{i}" for i in range(mapping_layers)] + ["embed"] * labels
    keys = {f"mapping.{layer}.{t}" for layer in fully_connected for t in ("weight", "bias")} | {"mapping.w_avg"}
    for res in (2**k for k in range(2, resolution.bit_length())):
        block = f"synthesis.b{res}"
        keys.add(f"{block}.resample_filter")
        for layer in ("conv1",) if res == 4 else ("conv0", "conv1"):
            tensors = ["weight", "bias", "noise_const", "noise_strength", "resample_filter", "affine.weight", "affine.bias"]
            keys |= {f"{block}.{layer}.{t}" for t in tensors}
        keys |= {f"{block}.torgb.{t}" for t in ("weight", "bias", "affine.weight", "affine.bias")}
    return keys | {"synthesis.b4.const"}


@pytest.mark.parametrize(("resolution", "layers", "labels"), [(4, 2, 0), (32, 8, 0), (64, 2, 3), (1024, 8, 0)])
def test_generator_keys_are_the_official_ones(resolution, layers, labels):
    with torch.device("meta"):
        generator = Generator(GeneratorConfig(resolution, c_dim=labels, mapping_layers=layers))
    assert set(generator.state_dict()) == generator_keys(resolution, layers, bool(labels))


@pytest.mark.parametrize("labels", [0, 10])
def test_resnet_discriminator_keys_are_the_official_ones(labels):
    with torch.device("meta"):
        keys = set(Discriminator(DiscriminatorConfig(32, c_dim=labels, mapping_layers=2)).state_dict())
    layers = {f"b{r}.{layer}": layer != "skip" for r in (32, 16, 8) for layer in ("conv0", "conv1", "skip")}
    layers |= {"b32.fromrgb": True, "b4.conv": True}
    expected = {f"{k}.{t}" for k in layers for t in ("weight", "resample_filter")}
    expected |= {f"{k}.bias" for k, biased in layers.items() if biased} | {f"b{r}.resample_filter" for r in (32, 16, 8)}
    fully_connected = ["b4.fc", "b4.out"] + (["mapping.embed", "mapping.fc0", "mapping.fc1"] if labels else [])
    assert keys == expected | {f"{k}.{t}" for k in fully_connected for t in ("weight", "bias")}


@pytest.mark.parametrize(("resolution", "base", "millions"), [(1024, 32768, 30.37), (256, 16384, 24.77)])
def test_parameter_counts_are_the_published_ones(resolution, base, millions):
    with torch.device("meta"):
        generator = Generator(GeneratorConfig(resolution, channel_base=base))
    assert sum(p.numel() for p in generator.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)


@pytest.mark.parametrize("labels", [0, 3])
def test_generator_equals_the_papers(reference, randomize, rng, labels):
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


@settings(deadline=None, max_examples=30)
@given(st.floats(-1, 2), st.none() | st.integers(0, 6), st.integers(0, 2**32 - 1))
def test_truncation_moves_the_first_latents_toward_the_average(psi, cutoff, seed):
    torch.manual_seed(seed)
    mapping = tiny_generator().mapping
    mapping.w_avg.copy_(torch.randn(7))
    z = torch.randn(2, 5)
    w = mapping(z)
    moved = mapping.w_avg + psi * (w - mapping.w_avg)
    expected = moved if cutoff is None else torch.cat([moved[:, :cutoff], w[:, cutoff:]], 1)
    torch.testing.assert_close(mapping(z, psi=psi, cutoff=cutoff), expected, atol=1e-4, rtol=1e-4)


def test_rows_are_normalised_to_unit_mean_square(rng):
    x = torch.from_numpy(rng.normal(size=(4, 9)) * rng.uniform(0.1, 100, (4, 1)))
    torch.testing.assert_close(normalize_2nd_moment(x).square().mean(1), torch.ones(4).double(), rtol=1e-5, atol=0)
    assert normalize_2nd_moment(torch.zeros(1, 9)).isfinite().all()


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


def test_average_latent_moves_by_its_decay(randomize, seed):
    torch.manual_seed(seed)
    mapping = randomize(tiny_generator(w_avg_beta=0.9)).mapping
    before, z = mapping.w_avg.clone(), torch.randn(16, 5)
    w = mapping(z)[:, 0]
    torch.testing.assert_close(mapping.w_avg, before, rtol=0, atol=0)
    mapping(z, update_w_avg=True)
    torch.testing.assert_close(mapping.w_avg, 0.9 * before + 0.1 * w.mean(0))


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


def test_clamp_of_the_discriminator_scales_with_the_residual_gain(seed):
    torch.manual_seed(seed)
    network, largest = tiny_discriminator(conv_clamp=0.1), {}
    for name, module in network.named_modules():
        if name.endswith(("fromrgb", "conv0", "conv1")):
            module.weight.data.mul_(1000)  # so that every layer meets its bound
            module.register_forward_hook(lambda m, i, y, name=name: largest.update({name: y.abs().max().item()}))
    network(torch.randn(4, 3, 16, 16) * 10)
    expected = {name: 0.1 * (0.5**0.5 if name.endswith("conv1") else 1) for name in largest}
    assert len(largest) == 5
    assert largest == pytest.approx(expected)


@pytest.mark.parametrize("labels", [0, 3])
@pytest.mark.parametrize("architecture", ["resnet", "skip", "orig"])
def test_discriminator_equals_the_papers(reference, randomize, rng, architecture, labels):
    network = randomize(tiny_discriminator(architecture=architecture, c_dim=labels))
    image, c = rng.normal(size=(4, 3, 16, 16)), np.eye(3)[rng.integers(0, 3, 4)] if labels else None
    expected = reference(network).discriminator(image, c, architecture, group=2)
    logits = network(torch.from_numpy(image), None if c is None else torch.from_numpy(c))
    assert logits.shape == (4, 1)
    np.testing.assert_allclose(logits.detach().numpy(), expected, rtol=2e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_discriminator_in_half_precision_is_finite_and_close(half, seed):
    torch.manual_seed(seed)
    network = tiny_discriminator(num_fp16_res=2, conv_clamp=256.0, channel_base=256, channel_max=32)
    image = torch.randn(4, 3, 16, 16)
    exact, logits = network(image), network(image, half=half)
    assert logits.dtype == torch.float32
    assert not torch.equal(exact, logits)
    torch.testing.assert_close(logits, exact, rtol=0.1, atol=0.15)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_minibatch_deviation_equals_its_definition(group, groups, maps, width, seed):
    n, channels = group * groups, maps * width
    x = np.random.default_rng(seed).normal(size=(n, channels, 2, 3))
    y = minibatch_std(torch.from_numpy(x).float(), group, maps).numpy()
    np.testing.assert_allclose(y[:, :channels], x, rtol=1e-5)
    for i in range(groups):
        for f in range(maps):
            members = x[i::groups, f * width : (f + 1) * width]
            expected = np.sqrt(members.var(0) + 1e-8).mean()
            np.testing.assert_allclose(y[i::groups, channels + f], expected, rtol=1e-4, atol=1e-5)


def test_minibatch_deviation_of_the_whole_batch_and_of_a_small_one():
    x = torch.randn(6, 2, 2, 2)
    assert torch.equal(minibatch_std(x, None, 1), minibatch_std(x, 6, 1))
    assert torch.equal(minibatch_std(x, 32, 1), minibatch_std(x, 6, 1))


def test_refuses_wrong_inputs():
    with pytest.raises(ValueError, match="do not divide"):
        minibatch_std(torch.ones(6, 2, 2, 2), 4, 1)
    with pytest.raises(ValueError, match="do not divide"):
        minibatch_std(torch.ones(4, 3, 2, 2), 4, 2)
    with pytest.raises(ValueError, match=r"ws must be \[N, 6, 7\]"):
        tiny_generator().synthesis(torch.ones(1, 5, 7))
    with pytest.raises(ValueError, match="takes labels"):
        tiny_generator(c_dim=3)(torch.ones(1, 5))
    with pytest.raises(ValueError, match=r"\[N, 3, 16, 16\]"):
        tiny_discriminator()(torch.ones(2, 3, 8, 8))
