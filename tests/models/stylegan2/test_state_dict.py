"""State dicts have the official names, and the shapes that `generator_shapes` and `discriminator_shapes` give."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stylert.models.stylegan2.config import DiscriminatorConfig, GeneratorConfig
from stylert.models.stylegan2.networks import Discriminator, Generator
from stylert.models.stylegan2.state_dict import discriminator_shapes, generator_shapes

architectures = st.sampled_from(["skip", "resnet", "orig"])


def official_generator_names(resolution, mapping_layers, labels):
    fully_connected = [f"fc{i}" for i in range(mapping_layers)] + ["embed"] * labels
    names = {f"mapping.{layer}.{t}" for layer in fully_connected for t in ("weight", "bias")} | {"mapping.w_avg"}
    for res in (2**k for k in range(2, resolution.bit_length())):
        block = f"synthesis.b{res}"
        names.add(f"{block}.resample_filter")
        for layer in ("conv1",) if res == 4 else ("conv0", "conv1"):
            tensors = ["weight", "bias", "noise_const", "noise_strength", "resample_filter", "affine.weight", "affine.bias"]
            names |= {f"{block}.{layer}.{t}" for t in tensors}
        names |= {f"{block}.torgb.{t}" for t in ("weight", "bias", "affine.weight", "affine.bias")}
    return names | {"synthesis.b4.const"}


@pytest.mark.parametrize(("resolution", "layers", "labels"), [(4, 2, 0), (32, 8, 0), (64, 2, 3), (1024, 8, 0)])
def test_generator_names_are_the_official_ones(resolution, layers, labels):
    with torch.device("meta"):
        generator = Generator(GeneratorConfig(resolution, c_dim=labels, mapping_layers=layers))
    assert set(generator.state_dict()) == official_generator_names(resolution, layers, bool(labels))


@pytest.mark.parametrize("labels", [0, 10])
def test_resnet_discriminator_names_are_the_official_ones(labels):
    with torch.device("meta"):
        names = set(Discriminator(DiscriminatorConfig(32, c_dim=labels, mapping_layers=2)).state_dict())
    has_bias = {f"b{r}.{layer}": layer != "skip" for r in (32, 16, 8) for layer in ("conv0", "conv1", "skip")}
    has_bias |= {"b32.fromrgb": True, "b4.conv": True}
    expected = {f"{layer}.{t}" for layer in has_bias for t in ("weight", "resample_filter")}
    expected |= {f"{layer}.bias" for layer in has_bias if has_bias[layer]} | {f"b{r}.resample_filter" for r in (32, 16, 8)}
    fully_connected = ["b4.fc", "b4.out"] + (["mapping.embed", "mapping.fc0", "mapping.fc1"] if labels else [])
    assert names == expected | {f"{layer}.{t}" for layer in fully_connected for t in ("weight", "bias")}


@settings(deadline=None, max_examples=40)
@given(
    resolution=st.integers(2, 10).map(lambda k: 2**k),
    c_dim=st.integers(0, 4),
    z_dim=st.integers(1, 600),
    w_dim=st.integers(1, 600),
    layers=st.integers(1, 8),
    base=st.integers(1024, 40000),
    maximum=st.integers(1, 600),
    img_channels=st.integers(1, 4),
    architecture=architectures,
    taps=st.lists(st.floats(0.5, 3), min_size=1, max_size=6),
)
def test_generator_shapes_are_those_of_the_module(
    resolution, c_dim, z_dim, w_dim, layers, base, maximum, img_channels, architecture, taps
):
    cfg = GeneratorConfig(
        resolution,
        z_dim=z_dim,
        c_dim=c_dim,
        w_dim=w_dim,
        img_channels=img_channels,
        channel_base=base,
        channel_max=maximum,
        mapping_layers=layers,
        architecture=architecture,
        resample_filter=tuple(taps),
    )
    with torch.device("meta"):
        state = Generator(cfg).state_dict()
    assert generator_shapes(cfg) == {name: tuple(t.shape) for name, t in state.items()}


@settings(deadline=None, max_examples=30)
@given(
    resolution=st.integers(3, 10).map(lambda k: 2**k),
    c_dim=st.integers(0, 4),
    base=st.integers(1024, 40000),
    maximum=st.integers(1, 600),
    architecture=architectures,
    mbstd_channels=st.integers(0, 2),
    layers=st.integers(1, 5),
    taps=st.integers(1, 6),
)
def test_discriminator_shapes_are_those_of_the_module(
    resolution, c_dim, base, maximum, architecture, mbstd_channels, layers, taps
):
    cfg = DiscriminatorConfig(
        resolution,
        c_dim=c_dim,
        channel_base=base,
        channel_max=maximum,
        architecture=architecture,
        mbstd_num_channels=mbstd_channels,
        mapping_layers=layers,
        resample_filter=(1.0,) * taps,
    )
    with torch.device("meta"):
        state = Discriminator(cfg).state_dict()
    assert discriminator_shapes(cfg) == {name: tuple(t.shape) for name, t in state.items()}
