"""Settings are read from text by the type of their field, and unknown ones are refused."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylert.train.configuration.presets import PRESETS, resolve
from stylert.train.configuration.settings import FROM_DATA, changed_settings, parse_setting

resolutions = st.integers(3, 10).map(lambda k: 2**k)


@given(st.sampled_from(list(PRESETS)), resolutions)
def test_every_field_can_be_set_from_its_text(name, resolution):
    cfg = resolve(name, resolution)
    for part in (cfg, cfg.generator, cfg.discriminator):
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if field.name in ("generator", "discriminator", *FROM_DATA):
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
