"""A resumed run may change learning rates, gammas, the augmentation and the 16-bit type. Every other change is refused by its name."""

import dataclasses

import pytest

from stylert.train.configuration.presets import resolve
from stylert.train.configuration.resumed_settings import CHANGEABLE, changes, resumed_config
from stylert.train.configuration.train_config import TrainConfig

SAVED = resolve("cpu", 16, seed=3)
NEW = {
    "lr": 0.004,
    "d_lr": 0.001,
    "r1_gamma": 7.0,
    "r2_gamma": 2.0,
    "pixels_r1_gamma": 0.7,
    "aug": "fixed",
    "aug_pipeline": "bg",
    "aug_p": 0.3,
    "ada_target": 0.5,
    "ada_kimg": 90.0,
    "half": "none",
}


def test_the_changeable_settings_take_their_new_values_and_all_else_stays():
    assert NEW.keys() == set(CHANGEABLE)
    cfg = resumed_config(SAVED, {**NEW, "kimg": 500.0, "seed": 9, "batch": SAVED.batch})
    assert cfg == dataclasses.replace(SAVED, kimg=500.0, **NEW)
    assert changes(SAVED, cfg) == {name: (getattr(SAVED, name), value) for name, value in NEW.items()}
    assert changes(SAVED, dataclasses.replace(SAVED, kimg=500.0)) == {}


@pytest.mark.parametrize("name", sorted({f.name for f in dataclasses.fields(TrainConfig)} - {*CHANGEABLE, "kimg", "seed"}))
def test_every_other_setting_of_a_run_is_refused_by_name(name):
    if name in ("generator", "discriminator"):
        overrides, name = {f"{name}.channel_base": 77}, f"{name}.channel_base"
    else:
        overrides = {name: object()}
    with pytest.raises(ValueError, match=f"keeps its settings: {name} had other values"):
        resumed_config(SAVED, {**NEW, **overrides})


def test_a_new_value_out_of_range_is_refused():
    with pytest.raises(ValueError, match="aug"):
        resumed_config(SAVED, {"aug": "sometimes"})
