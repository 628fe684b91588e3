"""The file of a training snapshot: the whole state of a run in one safetensors file.

The tensors are those of `trainer_state`. The configuration and the counters are JSON in the metadata.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stylert.core.errors import CheckpointError
from stylert.core.files.safetensors_files import digest, safetensors_file
from stylert.models.checkpoint import FORMAT_VERSION, METADATA_KEY, check_digest, read_metadata, read_shapes
from stylert.models.stylegan2.state_dict import discriminator_shapes, generator_shapes
from stylert.train.configuration.train_config import MAX_KIMG, TrainConfig
from stylert.train.trainer import pixels_discriminator


def write_snapshot(
    path: str | Path, cfg: TrainConfig, tensors: dict[str, Tensor], facts: dict[str, Any], within: Path | None = None
) -> None:
    """Write the state of a run. An earlier snapshot at `path` stays until this one is complete.

    Args:
        path: The file.
        cfg: Configuration of the run.
        tensors: The tensors of `trainer_state`.
        facts: The JSON values of `trainer_state`, such as `nimg` and `step`.
        within: As in `atomic_file`.
    """
    contiguous = {k: t.detach().cpu().contiguous(memory_format=torch.contiguous_format) for k, t in tensors.items()}
    arrays = {k: t.numpy() for k, t in contiguous.items()}
    averaged = {k: a for k, a in arrays.items() if k.startswith("G_ema.")}
    metadata = {
        "kind": "training",
        "version": FORMAT_VERSION,
        "generator": cfg.generator.to_dict(),
        "train": cfg.to_dict(),
        "facts": facts,
        # The second digest serves readers that load the generator alone.
        "sha256": {"": digest(arrays), "G_ema.": digest(averaged)},
    }
    with safetensors_file(path, within) as temporary:
        save_file(contiguous, str(temporary), {METADATA_KEY: json.dumps(metadata, sort_keys=True)})


def read_config(path: str | Path) -> TrainConfig:
    """The configuration of the run that wrote a snapshot.

    The tensors in its header have the shapes of that configuration. So its networks take no more memory than the file allows.

    Raises:
        CheckpointError: The file is no training snapshot, its configuration is not valid, or a tensor has another shape.
    """
    metadata = read_metadata(path)
    if metadata["kind"] != "training":
        raise CheckpointError(f"{path} is a generator for serving; resuming needs a training snapshot")
    try:
        cfg = TrainConfig.from_dict(metadata["train"])
        expected = _network_shapes(cfg)
    except (KeyError, TypeError, ValueError) as e:
        raise CheckpointError(f"{path} has no valid training configuration: {e}") from None
    shapes = read_shapes(path)
    for name, shape in expected.items():
        if name not in shapes:
            raise CheckpointError(f"{path} is no whole snapshot: it lacks the tensor {name}")
        if shapes[name] != shape:
            raise CheckpointError(f"{path}: {name} has the shape {list(shapes[name])}, its configuration says {list(shape)}")
    return cfg


def _network_shapes(cfg: TrainConfig) -> dict[str, tuple[int, ...]]:
    """The tensors of the networks of a run. Those of a projected discriminator are left out, as their sizes hardly vary."""
    generator = generator_shapes(cfg.generator)
    shapes = {f"{network}.{name}": shape for network in ("G", "G_ema") for name, shape in generator.items()}
    pixels = pixels_discriminator(cfg)
    if cfg.projected is None:
        shapes |= {f"D.{name}": shape for name, shape in discriminator_shapes(cfg.discriminator).items()}
    elif pixels is not None:
        shapes |= {f"D.pixels.{name}": shape for name, shape in discriminator_shapes(pixels).items()}
    return shapes


def read_snapshot(path: str | Path, cfg: TrainConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and facts of a snapshot, as `restore_state` takes them.

    Raises:
        CheckpointError: The file is damaged, or its networks have another configuration than `cfg`.
    """
    saved = read_config(path)
    if (saved.generator, saved.discriminator) != (cfg.generator, cfg.discriminator):
        raise CheckpointError(f"{path} holds networks of another configuration than this run's")
    metadata = read_metadata(path)
    facts = metadata.get("facts")
    if not isinstance(facts, dict) or not all(_is_counter(facts.get(k)) for k in ("nimg", "step")):
        raise CheckpointError(f"{path} has no valid counters nimg and step: it cannot be resumed")
    return load_tensors(path, metadata), facts


def _is_counter(value: object) -> bool:
    """Whether this is a number of images or steps that a run can reach."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 1000 * MAX_KIMG


def load_tensors(path: str | Path, metadata: dict[str, Any]) -> dict[str, Tensor]:
    """All tensors of a snapshot, checked against the digest in its metadata.

    Raises:
        CheckpointError: The file is cut off or damaged.
    """
    try:
        tensors = load_file(str(path))
    except (SafetensorError, OSError) as e:
        raise CheckpointError(f"{path} is not a whole safetensors file: {e}") from None
    check_digest(path, metadata, "", {k: t.numpy() for k, t in tensors.items()})
    return tensors
