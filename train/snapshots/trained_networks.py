"""The networks in the snapshot of a run, for writers of other projects' checkpoints."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from stylert.models.converters.networks import NetworksToWrite
from stylert.models.stylegan2.state_dict import discriminator_shapes, generator_shapes
from stylert.train.snapshots.snapshot_file import read_config, read_snapshot


def trained_networks(path: str | Path) -> tuple[NetworksToWrite, list[str]]:
    """G_ema, G and D of a snapshot, and notes for the user. The optimizers are left out.

    Raises:
        CheckpointError: The file is no whole snapshot.
    """
    cfg = read_config(path)
    tensors, _ = read_snapshot(path, cfg)

    def arrays(network: str, names: Iterable[str]) -> dict[str, np.ndarray]:
        return {name: tensors[f"{network}.{name}"].numpy() for name in names}

    shapes = generator_shapes(cfg.generator)
    notes = ["left out the optimizers of the run"]
    if cfg.projected is not None:
        notes.append("left out D: it is a projected discriminator")
        return NetworksToWrite(cfg.generator, arrays("G_ema", shapes), arrays("G", shapes)), notes
    discriminator = arrays("D", discriminator_shapes(cfg.discriminator))
    return NetworksToWrite(cfg.generator, arrays("G_ema", shapes), arrays("G", shapes), cfg.discriminator, discriminator), notes
