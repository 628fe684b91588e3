"""Presets equal the published table, `auto` follows its formulas, and wrong values are refused."""

import dataclasses
import json
from typing import get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylert.train.presets import PRESETS, TrainConfig, changed_settings, parse_setting, resolve

#            kimg batch mbstd base lr gamma ema ramp layers
TABLE = {
    "stylegan2": (25_000, 32, 4, 32768, 0.002, 10, 10, None, 8),
    "paper256": (25_000, 64, 8, 16384, 0.0025, 1, 20, None, 8),
    "paper512": (25_000, 64, 8, 32768, 0.0025, 0.5, 20, None, 8),
    "paper1024": (25_000, 32, 4, 32768, 0.002, 2, 10, None, 8),
    "cifar": (100_000, 64, 32, 32768, 0.0025, 0.01, 500, 0.05, 2),
}
PUBLISHED_GPUS = {"stylegan2": 8, "paper256": 8, "paper512": 8, "paper1024": 8, "cifar": 2}

resolutions = st.integers(3, 10).map(lambda k: 2**k)


def row(cfg):
    return (
        cfg.kimg,
        cfg.batch,
        cfg.discriminator.mbstd_group_size,
        cfg.generator.channel_base,
        cfg.lr,
        cfg.r1_gamma,
        cfg.ema_kimg,
        cfg.ema_rampup,
        cfg.generator.mapping_layers,
    )


@pytest.mark.parametrize("name", TABLE)
@given(resolution=resolutions, gpus=st.sampled_from([1, 2, 8]))
def test_fixed_presets_equal_the_table_at_any_resolution_and_number_of_gpus(name, resolution, gpus):
    cfg = resolve(name, resolution, gpus=gpus)
    assert row(cfg) == TABLE[name]
    assert cfg.discriminator.channel_base == cfg.generator.channel_base
    assert cfg.generator.resolution == cfg.discriminator.resolution == resolution


@pytest.mark.parametrize("name", TABLE)
@given(gpus=st.sampled_from([1, 2, 4, 8, 16]))
def test_published_presets_pass_as_many_images_at_once_as_on_the_published_gpus(name, gpus):
    cfg = resolve(name, 32, gpus=gpus)
    assert cfg.batch_gpu == cfg.batch // max(gpus, PUBLISHED_GPUS[name])
    assert resolve(name, 32, gpus=gpus, batch=128).batch_gpu == (128 // gpus if gpus > 1 else None)
    assert resolve(name, 32, gpus=gpus, batch_gpu=2, mbstd_group_size=2).batch_gpu == 2


@given(r=resolutions, g=st.sampled_from([1, 2, 4, 8]))
def test_auto_follows_resolution_and_gpus(r, g):
    cfg = resolve("auto", r, gpus=g)
    batch = max(min(g * min(4096 // r, 32), 64), g)
    base, lr = (32768 if r >= 512 else 16384), (0.002 if r >= 1024 else 0.0025)
    expected = (25_000, batch, min(batch // g, 4), base, lr, 0.0002 * r**2 / batch, batch * 10 / 32, 0.05, 2)
    assert row(cfg) == pytest.approx(expected)


@given(r=resolutions, batch=st.integers(1, 8).map(lambda k: 4 * k))
def test_cpu_presets_weight_r1_by_the_number_of_pixels_and_have_few_channels(r, batch):
    cfg = resolve("cpu", r, batch=batch)
    assert cfg.r1_gamma == pytest.approx(1.6 * (r / 64) ** 2)
    assert resolve("cpu", r).batch == 16
    for res in cfg.generator.block_resolutions:
        small = resolve("cpu-small", r).generator
        assert small.channels(res) <= cfg.generator.channels(res) <= 128
        assert small.channels(res) <= 64


@pytest.mark.parametrize("name", ["auto", *TABLE])
@given(resolution=resolutions)
def test_published_presets_share_their_other_values(name, resolution):
    cfg, cifar = resolve(name, resolution), name == "cifar"
    assert (cfg.generator.z_dim, cfg.generator.w_dim, cfg.generator.channel_max) == (512, 512, 512)
    assert (cfg.g_reg_interval, cfg.d_reg_interval, cfg.pl_decay, cfg.pl_batch_shrink) == (4, 16, 0.01, 2)
    assert (cfg.pl_weight, cfg.mixing_prob) == ((0, 0) if cifar else (2, 0.9))
    assert cfg.discriminator.architecture == ("orig" if cifar else "resnet")
    assert cfg.half == "fp16"
    assert {n.num_fp16_res for n in (cfg.generator, cfg.discriminator)} == {4}
    assert {n.conv_clamp for n in (cfg.generator, cfg.discriminator)} == {256}


@given(st.sampled_from(list(PRESETS)), st.integers(1, 4), st.integers(0, 20))
def test_the_shape_of_the_data_reaches_both_networks(name, channels, labels):
    cfg = resolve(name, 32, c_dim=labels, img_channels=channels)
    for network in (cfg.generator, cfg.discriminator):
        assert (network.resolution, network.c_dim, network.img_channels) == (32, labels, channels)


@given(st.sampled_from(list(PRESETS)), st.integers(512, 65536), st.integers(1, 512), st.none() | st.floats(1, 300))
def test_overrides_of_shared_fields_reach_both_networks(name, base, ceiling, clamp):
    cfg = resolve(name, 64, channel_base=base, channel_max=ceiling, conv_clamp=clamp, mapping_layers=5, num_fp16_res=1)
    for network in (cfg.generator, cfg.discriminator):
        assert (network.channel_base, network.channel_max, network.conv_clamp) == (base, ceiling, clamp)
        assert (network.mapping_layers, network.num_fp16_res) == (5, 1)


@given(st.sampled_from(list(PRESETS)), st.floats(0.1, 100), st.floats(1e-5, 1), st.integers(1, 16))
def test_overrides_replace_values_of_the_preset(name, gamma, lr, groups):
    group = resolve(name, 64).discriminator.mbstd_group_size
    cfg = resolve(name, 64, r1_gamma=gamma, lr=lr, batch=group * groups, w_dim=64, architecture="skip", half="bf16")
    assert (cfg.r1_gamma, cfg.lr, cfg.batch, cfg.half) == (gamma, lr, group * groups, "bf16")
    assert (cfg.generator.w_dim, cfg.discriminator.architecture) == (64, "skip")


@given(batch=st.integers(1, 16).map(lambda k: 4 * k))
def test_auto_derives_its_values_from_an_overridden_batch(batch):
    cfg = resolve("auto", 256, batch=batch)
    assert cfg.r1_gamma == pytest.approx(0.0002 * 256**2 / batch)
    assert cfg.ema_kimg == pytest.approx(batch * 10 / 32)


@given(st.sampled_from(list(PRESETS)), resolutions)
def test_json_round_trip_keeps_every_field(name, resolution):
    cfg = resolve(name, resolution, c_dim=2)
    assert TrainConfig.from_dict(json.loads(json.dumps(cfg.to_dict()))) == cfg
    assert dataclasses.is_dataclass(cfg)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("papers256", 64), "unknown preset 'papers256'.*stylegan2"),
        (("auto", 60), "power of two"),
    ],
)
def test_refuses_unknown_presets_and_resolutions(arguments, message):
    with pytest.raises(ValueError, match=message):
        resolve(*arguments)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"gama": 1}, "unknown training option 'gama'"),
        ({"batch": 0}, "batch"),
        ({"batch": -4}, "batch"),
        ({"batch": 6}, "multiple of the minibatch-std group 4"),
        ({"kimg": -1}, "kimg"),
        ({"lr": 0}, "lr"),
        ({"half": "int8"}, "half"),
        ({"channel_base": 1}, "channel_base"),
        ({"g_reg_interval": 0}, "g_reg_interval"),
        ({"pl_batch_shrink": 0}, "pl_batch_shrink"),
        ({"aug": "some"}, "aug must be"),
        ({"aug_pipeline": "xyz"}, "pipeline 'xyz'.*bgc"),
        ({"aug_p": 1.5}, "aug_p"),
        ({"ada_kimg": 0}, "ada_kimg"),
        ({"ada_target": float("nan")}, "ada_target"),
        ({"batch": 16, "batch_gpu": 12}, "multiple of batch_gpu"),
        ({"batch": 16, "batch_gpu": 0}, "batch_gpu must lie"),
        ({"batch": 10**400}, "batch must lie"),
        ({"batch": 12, "batch_gpu": 6}, "batch_gpu 6 must be a multiple of the minibatch-std group 4"),
        ({"freeze_d": -1}, "freeze_d"),
        ({"subset": 0}, "subset"),
    ],
)
def test_refuses_unknown_options_and_values_out_of_range(overrides, message):
    with pytest.raises(ValueError, match=message):
        resolve("auto", 64, **overrides)


def test_a_configuration_without_the_fields_of_augmentation_gets_their_defaults():
    saved = resolve("auto", 64).to_dict()
    for name in ("aug", "aug_pipeline", "aug_p", "ada_target", "ada_kimg", "batch_gpu", "freeze_d"):
        del saved[name]
    cfg = TrainConfig.from_dict(saved)
    assert (cfg.aug, cfg.batch_gpu, cfg.freeze_d) == ("noaug", None, 0)


def test_published_presets_use_ada_and_cpu_presets_do_not():
    assert {name: resolve(name, 32).aug for name in PRESETS} == {n: "noaug" if "cpu" in n else "ada" for n in PRESETS}
    cfg = resolve("auto", 32)
    assert (cfg.aug_pipeline, cfg.ada_target, cfg.ada_kimg, cfg.aug_p) == ("bgc", 0.6, 500, 0)


@given(st.sampled_from(list(PRESETS)), resolutions)
def test_every_field_can_be_set_from_its_text(name, resolution):
    cfg = resolve(name, resolution)
    for part in (cfg, cfg.generator, cfg.discriminator):
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if field.name in ("generator", "discriminator", "resolution", "c_dim", "img_channels"):
                continue
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            assert parse_setting(field.name, text) == value, field.name


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("emma_kimg", "1", "unknown training option 'emma_kimg'"),
        ("generator", "1", "unknown"),
        ("resolution", "64", "decided by the data"),
        ("ema_kimg", "long", "ema_kimg cannot be 'long'"),
        ("batch", "1.5", "batch cannot be"),
        ("mirror", "1", "mirror cannot be"),
        ("kimg", "none", "kimg cannot be"),
        ("resample_filter", "1,x", "resample_filter cannot be"),
    ],
)
def test_settings_of_an_unknown_name_or_wrong_type_are_refused(name, text, message):
    with pytest.raises(ValueError, match=message):
        parse_setting(name, text)


def test_a_setting_of_one_network_replaces_that_of_both():
    cfg = resolve("auto", 64, **{"generator.channel_max": 7, "channel_max": 9, "discriminator.mapping_layers": 3})
    assert (cfg.generator.channel_max, cfg.discriminator.channel_max) == (7, 9)
    assert (cfg.generator.mapping_layers, cfg.discriminator.mapping_layers) == (2, 3)
    assert parse_setting("generator.resample_filter", "1,2,1") == (1.0, 2.0, 1.0)
    for name in (
        "generator.batch",
        "run.batch",
        "generator.",
        "generator.generator",
        "discriminator.w_dim",
        "generator.resolution",
    ):
        with pytest.raises(ValueError, match=r"unknown training option|decided by the data"):
            parse_setting(name, "1")


def test_changed_settings_are_those_with_another_value():
    cfg = resolve("cpu", 64, channel_max=16)
    assert changed_settings(cfg, {"channel_max": 16, "batch": cfg.batch, "generator.channel_max": 16}) == []
    assert changed_settings(cfg, {"channel_max": 17, "lr": 1.0, "aug": cfg.aug}) == ["channel_max", "lr"]


def test_every_number_of_a_run_has_a_least_and_a_greatest_value():
    hints = get_type_hints(TrainConfig)
    for field in dataclasses.fields(TrainConfig):
        types = get_args(hints[field.name]) or (hints[field.name],)
        if not {int, float} & set(types):
            continue
        for value in (-(10**39), 10**39, 10**400) if int in types else (-1e30, 1e30):
            with pytest.raises(ValueError, match=rf"^{field.name} must") as e:
                resolve("auto", 64, **{field.name: value})
            assert len(str(e.value)) < 150
