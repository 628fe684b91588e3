"""Settings: single values of a configuration, by name.

`NAME` is a field of `TrainConfig` or of both networks. `generator.NAME` and `discriminator.NAME` are fields of one network.
"""

from __future__ import annotations

import dataclasses
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from stylert.core.errors import shown
from stylert.core.numerals import read_number, read_whole_number
from stylert.models.stylegan2.config import DiscriminatorConfig, GeneratorConfig
from stylert.train.configuration.train_config import TrainConfig

#: The configurations that a setting can belong to.
CONFIGS: dict[str, Any] = {"run": TrainConfig, "generator": GeneratorConfig, "discriminator": DiscriminatorConfig}

#: Fields that the images and labels decide.
FROM_DATA = ("resolution", "c_dim", "img_channels", "image_channels", "const_height", "const_width")


def parse_setting(name: str, text: str) -> Any:
    """The value of a setting from its text, in the type of the field.

    Args:
        name: Name of the setting.
        text: `none` for None, `true` or `false`; numbers of a tuple are separated by commas.

    Raises:
        ValueError: The name is unknown or decided by the data, or the text is no value of this type.
    """
    configs, field = configs_and_field(name)
    hint = get_type_hints(CONFIGS[configs[0]])[field]
    if field in FROM_DATA:
        raise ValueError(f"{name} is decided by the data")
    if not isinstance(text, str):
        raise ValueError(f"{name} cannot be {shown(text)}")
    types = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if text.lower() == "none" and type(None) in types:
        return None
    try:
        if get_origin(hint) is tuple:
            return tuple(read_number(part) for part in text.split(","))
        if bool in types:
            return {"true": True, "false": False}[text.lower()]
        if int in types:
            return read_whole_number(text)
        return read_number(text) if float in types else text
    except (KeyError, ValueError):
        raise ValueError(f"{name} cannot be {shown(text)}") from None


def changed_settings(cfg: TrainConfig, overrides: dict[str, Any]) -> list[str]:
    """Names of the overrides whose value differs from that in `cfg`, sorted.

    Raises:
        ValueError: A name is unknown.
    """
    parts = {"run": cfg, "generator": cfg.generator, "discriminator": cfg.discriminator}
    changed = []
    for name, value in overrides.items():
        configs, field = configs_and_field(name)
        if any(getattr(parts[key], field) != value for key in configs):
            changed.append(name)
    return sorted(changed)


def configs_and_field(name: str) -> tuple[list[str], str]:
    """The configurations that a setting belongs to, as keys of `CONFIGS`, and its field in each of them.

    Raises:
        ValueError: No configuration has this field.
    """
    if not isinstance(name, str):
        raise ValueError(f"unknown training option {shown(name)}")
    prefix, _, field = name.rpartition(".")
    candidates = list(CONFIGS)
    if prefix:
        candidates = [prefix] if prefix in ("generator", "discriminator") else []
    # A network of a run is no single value.
    configs = [key for key in candidates if field in {f.name for f in dataclasses.fields(CONFIGS[key])} - set(CONFIGS)]
    if not configs:
        raise ValueError(f"unknown training option {name!r}")
    return configs, field
