"""Prepares a run from imported networks: its configuration and its first snapshot.

Files of other projects hold no optimizers and no random state. So the run starts at image 0 with new ones.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from stylert.core.errors import CheckpointError, InputError
from stylert.models.checkpoint import SNAPSHOT_FILE
from stylert.models.importers.import_checkpoint import ImportedCheckpoint
from stylert.models.network_kinds import require_stylegan2
from stylert.train.configuration.presets import FROM_TRAINED_NETWORKS, resolve
from stylert.train.configuration.train_config import TrainConfig
from stylert.train.snapshots.run_folder import check_new_run
from stylert.train.snapshots.snapshot_file import write_snapshot


def imported_run_config(
    folder: str | Path, imported: ImportedCheckpoint, preset: str = "auto", **overrides: Any
) -> TrainConfig:
    """The configuration of a run in `folder`: hyperparameters of the preset, networks of the imported file.

    Writes nothing, so mistakes show before the first file is written.

    Args:
        folder: Folder of the run.
        imported: The imported file.
        preset: A name of `PRESETS`.
        overrides: As in `presets.resolve`. They replace the values of `presets.FROM_TRAINED_NETWORKS`.

    Raises:
        CheckpointError: The file has no G or no D that stylert can train.
        InputError: The networks are not those of StyleGAN2, or the preset or an override is unknown or does not fit them.
        OutputError: The folder already holds a run, or a file that the run would replace.
    """
    generator = require_stylegan2(imported.config, "this file", "training")
    for name, network in (("G", imported.raw), ("D", imported.discriminator)):
        if network is None:
            notes = [note for note in imported.notes if note.lower().startswith(f"dropped {name}:".lower())]
            reason = f" ({notes[0]})" if notes else ""
            raise CheckpointError(f"training cannot go on from this file: it has no {name} to train{reason}")
    check_new_run(Path(folder))
    discriminator = imported.discriminator_config
    assert discriminator is not None, "comes with the discriminator"
    try:
        values = FROM_TRAINED_NETWORKS | overrides
        g = generator
        values |= {"const_height": g.const_height, "const_width": g.const_width}
        cfg = resolve(preset, g.resolution, g.c_dim, g.img_channels, **values)
        return dataclasses.replace(cfg, generator=generator, discriminator=discriminator)
    except (TypeError, ValueError) as e:
        raise InputError(f"preset {preset} does not fit this network: {e}") from None


def write_first_snapshot(folder: str | Path, imported: ImportedCheckpoint, cfg: TrainConfig) -> Path:
    """Write the snapshot that `stylert train --resume --out FOLDER` starts from.

    Args:
        folder: Folder of the run.
        imported: The imported file.
        cfg: Its configuration, from `imported_run_config`.

    Returns:
        Path of the snapshot.
    """
    networks = {"G": imported.raw or {}, "D": imported.discriminator or {}, "G_ema": imported.arrays}
    tensors = {"pl_mean": torch.zeros([]), "rng": torch.Generator().manual_seed(cfg.seed).get_state()}
    for name, arrays in networks.items():
        tensors |= {f"{name}.{key}": torch.from_numpy(a) for key, a in arrays.items()}
    path = Path(folder) / SNAPSHOT_FILE
    write_snapshot(path, cfg, tensors, {"nimg": 0, "step": 0}, within=Path(folder))
    return path
