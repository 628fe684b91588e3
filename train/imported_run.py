"""Training that goes on from an imported checkpoint: its networks as a run that has made no step yet.

No foreign file holds what an exact resume needs, stylert's optimizers and random state, so the run starts anew at image
0 with fresh optimizers and the imported G, D and G_ema: transfer learning, as the official `--resume` does it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from stylert.core.errors import CheckpointError, InputError, OutputError
from stylert.models.checkpoint import SNAPSHOT_FILE
from stylert.models.importers.imported import Imported
from stylert.train.presets import TrainConfig, resolve
from stylert.train.snapshot import write_snapshot


def training_plan(folder: str | Path, imported: Imported, preset: str = "auto", **overrides: Any) -> TrainConfig:
    """The run that would go on in `folder`: hyperparameters of the preset, networks of the file. Writes nothing.

    Raises CheckpointError when the file has no G or D that stylert can train, InputError for a bad preset or option, and
    OutputError when the folder already holds a run.
    """
    for name, part in (("G", imported.raw), ("D", imported.discriminator)):
        if part is None:
            reason = next((note for note in imported.notes if note.lower().startswith(f"dropped {name}:".lower())), "")
            raise CheckpointError(f"training cannot go on from this file: it has no {name} to train{reason and f' ({reason})'}")
    if (Path(folder) / SNAPSHOT_FILE).exists():
        raise OutputError(f"{folder} already holds a run: choose another folder")
    cfg, d_cfg = imported.config, imported.discriminator_config
    assert d_cfg is not None, "comes with the discriminator"
    try:
        plan = resolve(preset, cfg.resolution, cfg.c_dim, cfg.img_channels, **overrides)
        return dataclasses.replace(plan, generator=cfg, discriminator=d_cfg)
    except (TypeError, ValueError) as e:
        raise InputError(f"preset {preset} does not fit this network: {e}") from None


def write_training_start(folder: str | Path, imported: Imported, plan: TrainConfig) -> Path:
    """Write `folder`/snapshot.safetensors, from which `stylert train --resume --out folder` goes on by `training_plan`."""
    networks = {"G": imported.raw or {}, "D": imported.discriminator or {}, "G_ema": imported.arrays}
    tensors = {f"{n}.{k}": torch.from_numpy(a) for n, arrays in networks.items() for k, a in arrays.items()}
    tensors |= {"pl_mean": torch.zeros([]), "rng": torch.Generator().manual_seed(plan.seed).get_state()}
    path = Path(folder) / SNAPSHOT_FILE
    write_snapshot(path, plan, tensors, {"nimg": 0, "step": 0})
    return path
