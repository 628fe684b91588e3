"""Training snapshots: the whole state of a run in one safetensors file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stylert.core.atomic import atomic_file
from stylert.core.errors import CheckpointError
from stylert.models.checkpoint import FORMAT_VERSION, METADATA_KEY, check_digest, digest, read_metadata
from stylert.train.presets import TrainConfig


def write_snapshot(path: str | Path, cfg: TrainConfig, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write the state of a run. Atomic: an earlier snapshot stays until this one is complete."""
    metadata = {
        "kind": "training",
        "version": FORMAT_VERSION,
        "generator": cfg.generator.to_dict(),
        "train": cfg.to_dict(),
        "facts": facts,
    }
    whole = {name: t.detach().cpu().contiguous(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    arrays = {name: t.numpy() for name, t in whole.items()}
    served = {name: a for name, a in arrays.items() if name.startswith("G_ema.")}
    metadata["sha256"] = {"": digest(arrays), "G_ema.": digest(served)}
    with atomic_file(path) as temporary:
        save_file(whole, str(temporary), {METADATA_KEY: json.dumps(metadata, sort_keys=True)})


def read_config(path: str | Path) -> TrainConfig:
    """The configuration of the run that wrote a snapshot."""
    metadata = read_metadata(path)
    if metadata["kind"] != "training":
        raise CheckpointError(f"{path} is a generator for serving; resuming needs a training snapshot")
    try:
        return TrainConfig.from_dict(metadata["train"])
    except (KeyError, TypeError, ValueError) as e:
        raise CheckpointError(f"{path} has no valid training configuration: {e}") from None


def read_snapshot(path: str | Path, cfg: TrainConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and facts of a snapshot whose networks match `cfg`. CheckpointError when they do not, or are damaged."""
    saved = read_config(path)
    if (saved.generator, saved.discriminator) != (cfg.generator, cfg.discriminator):
        raise CheckpointError(f"{path} holds networks of another configuration than this run's")
    metadata = read_metadata(path)
    facts = metadata.get("facts")
    if not isinstance(facts, dict) or not all(isinstance(facts.get(k), int) and facts[k] >= 0 for k in ("nimg", "step")):
        raise CheckpointError(f"{path} does not say how far its run is")
    try:
        tensors = load_file(str(path))
    except (SafetensorError, OSError) as e:
        raise CheckpointError(f"{path} is not a whole safetensors file: {e}") from None
    check_digest(path, metadata, "", {name: t.numpy() for name, t in tensors.items()})
    return tensors, facts
