"""A configuration is written as JSON and read back, and every value that no run can have is refused."""

import dataclasses
import json
import math
from typing import get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylert.train.configuration.presets import PRESETS, resolve
from stylert.train.configuration.train_config import RANGES, TrainConfig

resolutions = st.integers(3, 10).map(lambda k: 2**k)


@given(st.sampled_from(list(PRESETS)), resolutions)
def test_json_round_trip_keeps_every_field(name, resolution):
    cfg = resolve(name, resolution, c_dim=2)
    assert TrainConfig.from_dict(json.loads(json.dumps(cfg.to_dict()))) == cfg
    assert dataclasses.is_dataclass(cfg)


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
        ({"aug_pipeline": "xyz"}, "aug_pipeline must be one of .*bgc.*'xyz'"),
        ({"aug_p": 1.5}, "aug_p"),
        ({"ada_kimg": 0}, "ada_kimg"),
        ({"ada_target": float("nan")}, "ada_target"),
        ({"batch": 16, "batch_gpu": 12}, "multiple of batch_gpu"),
        ({"batch": 16, "batch_gpu": 0}, "batch_gpu must lie"),
        ({"batch": 10**400}, "batch must be a whole number from 1"),
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


NUMBERS = {
    name: types for name, hint in get_type_hints(TrainConfig).items() if (types := set(get_args(hint) or [hint])) & {int, float}
}


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_of_a_run_has_a_type_a_least_and_a_greatest_value(name):
    """Values that are no number of a run are refused in one line that begins with the name."""
    values = [math.inf, -math.inf, math.nan, -(10**39), 10**39, 10**400, -1e30, 1e30, "1", True, 3 + 0j, [1]]
    values += [] if name == "ada_target" else [-1]
    values += [1.0, 8.5] if int in NUMBERS[name] else []
    values += [None] if type(None) not in NUMBERS[name] and name != "batch" else []
    for value in values:
        with pytest.raises(ValueError, match=rf"^{name} must [^\n]{{1,140}}\Z"):
            resolve("auto", 64, **{name: value})


@pytest.mark.parametrize("name", NUMBERS)
def test_the_ends_of_every_range_are_taken_and_what_is_beyond_is_not(name):
    least, greatest = RANGES[name]
    kind = int if int in NUMBERS[name] else float
    beyond = (
        (least - 1, greatest + 1) if kind is int else (math.nextafter(least, -math.inf), math.nextafter(greatest, math.inf))
    )
    for value in beyond:
        with pytest.raises(ValueError, match=f"^{name} must"):
            resolve("auto", 64, **{name: kind(value)})
    needs_more_than_zero = ("lr", "d_lr", "ada_kimg")
    others = {"mbstd_group_size": 1, "batch": int(greatest) if name == "batch_gpu" else 64} | (
        {"projected": 32} if name.startswith("projected") else {}
    )
    for value in (least, greatest):
        if value != 0 or name not in needs_more_than_zero:
            assert getattr(resolve("cpu", 64, **{**others, name: kind(value)}), name) == value
