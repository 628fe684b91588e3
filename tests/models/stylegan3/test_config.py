"""The list of layers is the published one, and wrong configurations are refused by name."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from hypothesis import given, settings

from stylert.models.stylegan3.config import GeneratorConfig
from stylert.models.stylegan3.layer_list import centred_padding
from stylert.models.stylegan3.networks import Generator
from stylert.models.stylegan3.state_dict import generator_shapes
from tests.models.stylegan3.tiny import configurations, tiny_config

#: Layers as the official training printed them in users' reports: name, parameters with the affine layer, values of the buffers.
PUBLISHED_R_1024 = [
    ("L10_1044_161", 131328 + 41377, 169),
    ("L11_1044_102", 82593 + 16524, 157),
    ("L12_1044_64", 52326 + 6592, 25),
    ("L13_1024_64", 32832 + 4160, 25),
    ("L14_1024_3", 32832 + 195, 1),
]
PUBLISHED_R_128 = [
    ("L8_84_1024", 525312 + 1049600, 157),
    ("L9_148_1024", 525312 + 1049600, 169),
    ("L10_148_912", 525312 + 934800, 157),
    ("L11_148_683", 467856 + 623579, 157),
    ("L12_148_512", 350379 + 350208, 25),
    ("L13_128_512", 262656 + 262656, 25),
    ("L14_128_3", 262656 + 1539, 1),
]
PUBLISHED_T_256 = [
    ("L0_36_512", 262656 + 2359808, 25),
    ("L1_36_512", 262656 + 2359808, 25),
    ("L2_36_512", 262656 + 2359808, 25),
    ("L3_52_512", 262656 + 2359808, 37),
    ("L4_52_512", 262656 + 2359808, 25),
]


def counts(cfg: GeneratorConfig) -> dict[str, tuple[int, int]]:
    """Parameters and buffer values of every layer."""
    result = {}
    shapes = generator_shapes(cfg)
    for layer in cfg.layers():
        sizes = {k: math.prod(v) for k, v in shapes.items() if k.startswith(f"synthesis.{layer.name}.")}
        buffers = sum(n for k, n in sizes.items() if k.endswith(("_filter", "magnitude_ema")))
        result[layer.name] = (sum(sizes.values()) - buffers, buffers)
    return result


@pytest.mark.parametrize(
    ("cfg", "published"),
    [
        (GeneratorConfig.configuration_r(1024, channel_base=65536), PUBLISHED_R_1024),
        (GeneratorConfig.configuration_r(128), PUBLISHED_R_128),
        (GeneratorConfig(256), PUBLISHED_T_256),
    ],
    ids=["r-1024", "r-128", "t-256"],
)
def test_layers_have_the_published_names_and_sizes(cfg: GeneratorConfig, published: list[tuple[str, int, int]]) -> None:
    layers = counts(cfg)
    assert {name: (parameters, buffers) for name, parameters, buffers in published}.items() <= layers.items()
    assert len(layers) == 15


def test_the_whole_of_configuration_r_has_the_published_number_of_values() -> None:
    with torch.device("meta"):
        generator = Generator(GeneratorConfig.configuration_r(1024))
    assert sum(p.numel() for p in generator.parameters()) == 15093151
    assert sum(b.numel() for b in generator.buffers()) == 5600


def test_half_precision_begins_where_the_published_list_has_it() -> None:
    float32_layers = [layer.name for layer in GeneratorConfig(256).layers() if not layer.is_fp16]
    assert float32_layers == ["L0_36_512", "L1_36_512", "L2_36_512"]
    assert not any(layer.is_fp16 for layer in GeneratorConfig(256, num_fp16_res=0).layers())


@settings(max_examples=60)
@given(configurations())
def test_layers_fit_together_and_the_state_dict_has_the_declared_shapes(cfg: GeneratorConfig) -> None:
    layers = cfg.layers()
    for before, layer in itertools.pairwise(layers):
        assert (layer.in_channels, layer.in_size, layer.in_rate) == (before.out_channels, before.out_size, before.out_rate)
        assert layer.in_cutoff == before.out_cutoff
        assert layer.out_cutoff <= layer.out_rate / 2 * (1 + 1e-12)
    assert (layers[-1].out_size, layers[-1].out_channels) == (cfg.resolution, cfg.img_channels)
    assert len({layer.ws_index for layer in layers} | {0}) == cfg.num_ws
    with torch.device("meta"):
        state = Generator(cfg).state_dict()
    assert {name: tuple(t.shape) for name, t in state.items()} == generator_shapes(cfg)


@settings(max_examples=60)
@given(configurations())
def test_a_configuration_survives_json(cfg: GeneratorConfig) -> None:
    assert GeneratorConfig.from_dict(json.loads(json.dumps(cfg.to_dict()))) == cfg


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 48}, "power of two"),
        ({"resolution": 4}, "resolution must lie in"),
        ({"num_critical": 4}, "num_critical must be smaller"),
        ({"num_critical": 0}, "num_critical must lie in"),
        ({"conv_kernel": 2}, "conv_kernel must be odd"),
        ({"lrelu_upsampling": 3}, "lrelu_upsampling must be a power of two"),
        ({"first_cutoff": 8.0}, "first_cutoff must be smaller"),
        ({"first_stopband": 2.0}, "first_stopband must be greater"),
        ({"last_stopband_rel": 1.0}, "last_stopband_rel must be greater"),
        ({"channel_base": 4}, "leaves no channels"),
        ({"resolution": 1024, "channel_base": 65536, "filter_size": 16, "lrelu_upsampling": 8}, "more than 512 taps"),
        ({"use_radial_filters": 1}, "use_radial_filters must be true or false"),
        ({"num_layers": 4.0}, "num_layers must be a whole number"),
        ({"output_scale": math.nan}, "output_scale must be a finite number"),
        ({"conv_clamp": "1"}, "conv_clamp must be a finite number"),
        ({"first_cutoff": None}, "first_cutoff must be a finite number"),
    ],
)
def test_a_wrong_field_is_refused_by_name(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_config(**changes)


def test_unknown_and_missing_fields_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unknown field 'magic'"):
        GeneratorConfig.from_dict({"resolution": 16, "magic": 1})
    with pytest.raises(ValueError, match="resolution is missing"):
        GeneratorConfig.from_dict({})


def test_padding_keeps_the_centre() -> None:
    """The sum of positions of the outputs equals that of the inputs, wherever both lie on the same grid."""
    cases = [(38, 36, 2, 2, 22), (38, 52, 4, 2, 34), (1046, 1024, 2, 2, 22), (36, 36, 2, 2, 22)]
    for in_size, out_size, up, down, reach in cases:
        before, after = centred_padding(in_size, out_size, up, down, reach)
        assert in_size * up + before + after - reach == (out_size - 1) * down + 1
        input_centre = (in_size - 1) / 2 * up + before
        output_centre = (out_size - 1) / 2 * down + reach / 2
        assert input_centre - output_centre in (0, 0.5)
