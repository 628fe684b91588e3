"""Presets equal the published table, `auto` follows its formulas, and wrong values are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylert.train.configuration.presets import PRESETS, resolve

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


def test_published_presets_use_ada_and_cpu_presets_do_not():
    assert {name: resolve(name, 32).aug for name in PRESETS} == {n: "noaug" if "cpu" in n else "ada" for n in PRESETS}
    cfg = resolve("auto", 32)
    assert (cfg.aug_pipeline, cfg.ada_target, cfg.ada_kimg, cfg.aug_p) == ("bgc", 0.6, 500, 0)
