"""The settings that a resumed run may change. All others stay those of its snapshot."""

from __future__ import annotations

import dataclasses
from typing import Any

from stylert.train.configuration.settings import changed_settings
from stylert.train.configuration.train_config import TrainConfig

#: Settings that a resumed run may change. They are read anew in each step, and belong to no tensor of a snapshot.
CHANGEABLE = (
    "lr",
    "d_lr",
    "r1_gamma",
    "r2_gamma",
    "pixels_r1_gamma",
    "aug",
    "aug_pipeline",
    "aug_p",
    "ada_target",
    "ada_kimg",
    "half",
)
#: Settings that a resumed run may give without effect: a seed is part of a snapshot, and a longer run is no other run.
UNRECORDED = ("kimg", "seed")


def resumed_config(saved: TrainConfig, overrides: dict[str, Any]) -> TrainConfig:
    """The configuration of a run that goes on from a snapshot.

    Args:
        saved: The configuration in the snapshot.
        overrides: New values, by the names of `settings`. `seed` is passed over.

    Raises:
        ValueError: A value differs that may not change, or is out of range. The message names the settings.
    """
    fixed = {k: v for k, v in overrides.items() if k not in (*CHANGEABLE, *UNRECORDED)}
    if refused := changed_settings(saved, fixed):
        raise ValueError(f"a resumed run keeps its settings: {', '.join(refused)} had other values")
    return dataclasses.replace(saved, **{k: v for k, v in overrides.items() if k in (*CHANGEABLE, "kimg")})


def changes(saved: TrainConfig, cfg: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """The settings of a run that differ, but for its length: the old and the new value by name."""
    names = [field.name for field in dataclasses.fields(TrainConfig) if field.name != "kimg"]
    pairs = {name: (getattr(saved, name), getattr(cfg, name)) for name in names}
    return {name: (old, new) for name, (old, new) in pairs.items() if old != new}
