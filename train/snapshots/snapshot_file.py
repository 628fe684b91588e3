"""The file of a training snapshot: the whole state of a run in one safetensors file.

The tensors are those of `trainer_state`. The configuration and the counters are JSON in the metadata.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from stylert.core.errors import CheckpointError
from stylert.core.files.safetensors_files import digest, safetensors_file
from stylert.models.checkpoint import (
    FORMAT_VERSION,
    METADATA_KEY,
    TensorHeader,
    check_digest,
    read_arrays,
    read_headers,
    read_metadata,
)
from stylert.models.stylegan2.state_dict import discriminator_shapes, generator_shapes
from stylert.train.configuration.train_config import MAX_KIMG, TrainConfig
from stylert.train.snapshots.trainer_state import ADAM_STATE, not_finite
from stylert.train.trainer import pixels_discriminator

#: Tensors of bytes. All others are float32.
RANDOM_STATES = ("rng", "rng_cuda")
#: Values in the tensors whose sizes the configuration does not tell, at most: those of a projected discriminator with its
#: optimizer, which have 35 million, and the random states.
MAX_OPEN_VALUES = 2**28


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

    Raises:
        CheckpointError: A value is not finite. Nothing is written.
    """
    if (name := not_finite(tensors)) is not None:
        raise CheckpointError(
            f"{path} is not written: {name} holds values that are not finite at {facts['nimg'] / 1000:.1f} kimg: "
            "lower --lr or raise --gamma"
        )
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

    The tensors in its header have the shapes and types of that configuration. So its networks take no more memory than the file
    allows.

    Raises:
        CheckpointError: The file is no training snapshot, its configuration is not valid, or a tensor has another shape or type.
    """
    return _read_config(path, read_metadata(path))


def _read_config(path: str | Path, metadata: dict[str, Any]) -> TrainConfig:
    if metadata["kind"] != "training":
        raise CheckpointError(f"{path} is a generator for serving; resuming needs a training snapshot")
    if "train" not in metadata:
        raise CheckpointError(f"{path} has no configuration of its run: it cannot be resumed")
    try:
        cfg = TrainConfig.from_dict(metadata["train"])
        expected = _network_shapes(cfg)
    except (KeyError, TypeError, ValueError) as e:
        raise CheckpointError(f"{path} has no valid training configuration: {e}") from None
    headers = read_headers(path)
    for name in expected:
        if name not in headers:
            raise CheckpointError(f"{path} is no whole snapshot: it lacks the tensor {name}")
    expected |= _optimizer_shapes(expected) | {"pl_mean": ()}
    open_values = 0
    for name in _state_names(headers, cfg):
        header = headers[name]
        shape = expected.get(name, header.shape)
        if header.shape != shape:
            raise CheckpointError(f"{path}: {name} has the shape {list(header.shape)}, its configuration says {list(shape)}")
        dtype = "U8" if name in RANDOM_STATES else "F32"
        if header.dtype != dtype:
            raise CheckpointError(f"{path}: {name} is of type {header.dtype}, and a snapshot holds {dtype}")
        open_values += 0 if name in expected else math.prod(shape)
    if open_values > MAX_OPEN_VALUES:
        raise CheckpointError(f"{path} holds {open_values:,} values beyond those that its configuration needs")
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


def _optimizer_shapes(networks: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The tensors of Adam, if it trained every tensor of G and D."""
    shapes: dict[str, tuple[int, ...]] = {}
    for key, shape in networks.items():
        network, _, name = key.partition(".")
        if network != "G_ema":
            shapes |= {f"opt_{network}.{slot}.{name}": () if slot == "step" else shape for slot in ADAM_STATE}
    return shapes


def _state_names(headers: dict[str, TensorHeader], cfg: TrainConfig) -> list[str]:
    """The names in a snapshot that belong to the state of a run. Others are never read."""
    networks = _network_shapes(cfg)
    known = [*networks, *_optimizer_shapes(networks), "pl_mean", *RANDOM_STATES]
    open_ended = () if cfg.projected is None else ("D.", *(f"opt_D.{slot}." for slot in ADAM_STATE))
    more = (name for name in headers if name.startswith(open_ended))
    return [name for name in dict.fromkeys((*known, *more)) if name in headers]


def read_snapshot(path: str | Path, cfg: TrainConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and facts of a snapshot, as `restore_state` takes them.

    Raises:
        CheckpointError: The file is damaged, or its networks have another configuration than `cfg`.
    """
    metadata = read_metadata(path)
    saved = _read_config(path, metadata)
    if (saved.generator, saved.discriminator) != (cfg.generator, cfg.discriminator):
        raise CheckpointError(f"{path} holds networks of another configuration than this run's")
    facts = metadata.get("facts")
    if not isinstance(facts, dict) or not all(_is_counter(facts.get(k)) for k in ("nimg", "step")):
        raise CheckpointError(f"{path} has no valid counters nimg and step: it cannot be resumed")
    return read_tensors(path), facts


def _is_counter(value: object) -> bool:
    """Whether this is a number of images or steps that a run can reach."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 1000 * MAX_KIMG


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a snapshot that belong to the state of a run, checked against the digest in its metadata.

    Raises:
        CheckpointError: The file is cut off or damaged, or `read_config` refuses it.
    """
    metadata = read_metadata(path)
    names = _state_names(read_headers(path), _read_config(path, metadata))
    arrays = read_arrays(path, names)
    check_digest(path, metadata, "", arrays)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
