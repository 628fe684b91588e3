"""Configurations of StyleGAN1: sizes of the paper, the list of layers, and refusal of values that make no network."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylert.models.network_kinds import generator_config, generator_shapes, parameter_count
from stylert.models.stylegan1.config import GeneratorConfig
from stylert.models.stylegan1.networks import Generator
from tests.models.stylegan1.tiny import configurations, tiny_config


def test_the_network_of_the_paper_has_26_2_million_parameters_and_two_latents_per_resolution() -> None:
    cfg = GeneratorConfig(1024)
    assert parameter_count(cfg) / 1e6 == pytest.approx(26.2, abs=0.05)  # section 2
    assert [cfg.channels(r) for r in cfg.block_resolutions] == [512, 512, 512, 512, 256, 128, 64, 32, 16]
    assert cfg.num_ws == 18


@given(configurations())
def test_tensors_of_the_module_are_those_of_the_configuration(cfg: GeneratorConfig) -> None:
    state = {name: tuple(tensor.shape) for name, tensor in Generator(cfg).state_dict().items()}
    assert state == generator_shapes(cfg)
    assert parameter_count(cfg) == sum(p.numel() for p in Generator(cfg).parameters())


@given(st.integers(3, 12).map(lambda k: 2**k))
def test_layers_are_a_constant_and_convolutions_with_a_latent_each_and_torgb(resolution: int) -> None:
    *layers, torgb = GeneratorConfig(resolution).layers()
    assert [layer.ws_index for layer in layers] == list(range(2 * int(math.log2(resolution)) - 2))
    assert [layer.resolution for layer in layers] == [4 * 2 ** (i // 2) for i in range(len(layers))]
    assert all(b.in_channels == a.out_channels for a, b in zip(layers, [*layers[1:], torgb], strict=True))
    assert {layer.name for layer in layers if layer.up == 2} == {f"b{2**k}.conv0" for k in range(3, 13) if 2**k <= resolution}
    assert (torgb.kernel, torgb.out_channels, torgb.ws_index) == (1, 3, -1)


@given(configurations())
def test_json_gives_the_configuration_back(cfg: GeneratorConfig) -> None:
    data = json.loads(json.dumps(cfg.to_dict()))
    assert data["network"] == "stylegan1"
    assert generator_config(data) == cfg


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 4}, "resolution must lie in 8 to 4096"),
        ({"resolution": 24}, "resolution must be a power of two"),
        ({"channel_base": 8}, "leaves no channels"),
        ({"channel_decay": 9.0}, "leaves no channels"),
        ({"channel_decay": -1.0}, "channel_decay must lie in"),
        ({"norm_eps": -1e-8}, "norm_eps must lie in"),
        ({"norm_eps": float("nan")}, "norm_eps must be a finite number"),
        ({"bias_before_blur": 1}, "bias_before_blur must be true or false"),
        ({"mapping_layers": 0}, "mapping_layers must lie in"),
    ],
)
def test_values_that_make_no_network_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_config(**changes)
