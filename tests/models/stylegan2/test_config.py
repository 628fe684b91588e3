"""Configurations: the published sizes, the list of layers, and refusal of values that make no network."""

import dataclasses
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylert.models.stylegan2.config import DiscriminatorConfig, GeneratorConfig

resolutions = st.integers(2, 10).map(lambda k: 2**k)


@pytest.mark.parametrize(
    ("resolution", "base", "gmac"), [(1024, 32768, 74.3), (512, 32768, 59.7), (256, 32768, 45.1), (256, 16384, 14.9)]
)
def test_multiply_accumulates_are_the_published_ones(resolution, base, gmac):
    assert GeneratorConfig(resolution, channel_base=base).macs() / 1e9 == pytest.approx(gmac, abs=0.051)


@given(resolutions)
def test_number_of_latents_is_twice_the_logarithm_of_the_resolution_minus_two(resolution):
    cfg = GeneratorConfig(resolution)
    assert cfg.num_ws == 2 * math.log2(resolution) - 2
    assert {s.ws_index for s in cfg.layers()} == set(range(cfg.num_ws))


@given(resolutions)
def test_torgb_reads_the_first_latent_of_the_next_block(resolution):
    index = {s.name: s.ws_index for s in GeneratorConfig(resolution).layers()}
    for res in (4 * 2**k for k in range(int(math.log2(resolution)) - 2)):
        assert index[f"b{res}.torgb"] == index[f"b{2 * res}.conv0"] == index[f"b{res}.conv1"] + 1


@given(resolutions, st.integers(1024, 65536), st.integers(1, 1024))
def test_channels_halve_with_each_resolution_under_the_maximum(resolution, base, maximum):
    cfg = GeneratorConfig(resolution, channel_base=base, channel_max=maximum)
    for spec in cfg.layers():
        source = spec.resolution // spec.up
        assert spec.in_channels == min(base // source, maximum)
        expected = 3 if spec.kind == "torgb" else min(base // spec.resolution, maximum)
        assert (spec.out_channels, spec.kernel) == (expected, 1 if spec.kind == "torgb" else 3)


@given(resolutions, st.integers(0, 12))
def test_half_precision_is_allowed_at_the_highest_resolutions_from_8_px_up(resolution, count):
    cfg = GeneratorConfig(resolution, num_fp16_res=count)
    highest = [r for r in reversed(cfg.block_resolutions) if r >= 8][:count]
    assert [r for r in cfg.block_resolutions if cfg.is_fp16(r)] == highest[::-1]


@settings(max_examples=60)
@given(
    st.integers(3, 10).map(lambda k: 2**k),
    st.integers(0, 5),
    st.integers(1, 8),
    st.none() | st.floats(1, 300),
    st.lists(st.floats(0.5, 3), min_size=1, max_size=5),
)
def test_json_round_trip_keeps_every_field(resolution, c_dim, layers, clamp, taps):
    for cls in (GeneratorConfig, DiscriminatorConfig):
        cfg = cls(resolution, c_dim=c_dim, mapping_layers=layers, conv_clamp=clamp, resample_filter=tuple(taps))
        assert cls.from_dict(json.loads(json.dumps(cfg.to_dict()))) == cfg


WRONG = [
    ("resolution", 48),
    ("resolution", 2),
    ("resolution", 8192),
    ("resolution", 64.0),
    ("resolution", True),
    ("c_dim", -1),
    ("img_channels", 0),
    ("channel_base", 10),
    ("channel_max", 0),
    ("mapping_layers", 0),
    ("num_fp16_res", -1),
    ("conv_clamp", 0.0),
    ("resample_filter", ()),
    ("resample_filter", (1.0, -1.0)),
    ("resample_filter", (1e308, 1e308)),
    ("resample_filter", (1.0,) * 65),
    ("channel_base", 2**31),
    ("channel_max", 65537),
    ("img_channels", 10**39),
    ("c_dim", 65537),
    ("mapping_layers", 65),
    ("num_fp16_res", 2**30),
    ("conv_clamp", 1e10),
    ("conv_clamp", 1e400),
    ("conv_clamp", float("nan")),
    ("conv_clamp", True),
    ("conv_clamp", 10**400),
]


@pytest.mark.parametrize("cls", [GeneratorConfig, DiscriminatorConfig])
@pytest.mark.parametrize(("field", "value"), WRONG)
def test_values_that_make_no_network_are_refused(cls, field, value):
    with pytest.raises(ValueError, match=field):
        cls.from_dict({"resolution": 64, field: value})
    with pytest.raises(ValueError, match=field):
        cls(**{"resolution": 64, field: value})


@pytest.mark.parametrize(
    ("cls", "field", "value"),
    [
        (GeneratorConfig, "z_dim", 0),
        (GeneratorConfig, "z_dim", 65537),
        (GeneratorConfig, "w_dim", 10**39),
        (GeneratorConfig, "w_avg_beta", 1.5),
        (DiscriminatorConfig, "resolution", 4),
        (DiscriminatorConfig, "architecture", "unet"),
        (DiscriminatorConfig, "mbstd_num_channels", -1),
        (DiscriminatorConfig, "mbstd_num_channels", 65537),
        (DiscriminatorConfig, "mbstd_group_size", 0),
        (DiscriminatorConfig, "mbstd_group_size", -4),
    ],
)
def test_values_that_make_no_network_of_this_kind_are_refused(cls, field, value):
    with pytest.raises(ValueError, match=field):
        cls.from_dict({"resolution": 64, field: value})


@pytest.mark.parametrize("cls", [GeneratorConfig, DiscriminatorConfig])
def test_unknown_and_missing_fields_are_refused_by_name(cls):
    with pytest.raises(ValueError, match="'colour'"):
        cls.from_dict({"resolution": 64, "colour": 3})
    with pytest.raises(ValueError, match="resolution"):
        cls.from_dict({})


def test_a_configuration_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        GeneratorConfig(64).resolution = 128


@pytest.mark.parametrize("cls", [GeneratorConfig, DiscriminatorConfig])
def test_every_number_has_a_least_and_a_greatest_value(cls):
    for field in dataclasses.fields(cls):
        if str(field.type).startswith(("int", "float")):
            for value in (-1e30, 1e30) if str(field.type).startswith("float") else (-(10**39), 10**39):
                with pytest.raises(ValueError, match=f"^{field.name} must") as e:
                    cls(**{"resolution": 64, field.name: value})
                assert len(str(e.value)) < 150
