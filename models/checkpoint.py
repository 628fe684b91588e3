"""Checkpoints: safetensors with the network's configuration in the metadata. Nothing here can run code from a file.

Two kinds share one suffix. A *generator* file holds the tensors of G_ema under their official names, for serving. A
*training* file holds `G.*`, `D.*`, `G_ema.*` and the optimizers' tensors, for resuming; the exporter reads its G_ema.
Reading weights as NumPy arrays needs no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from stylert.core.atomic import atomic_file
from stylert.core.errors import CheckpointError
from stylert.models.stylegan2.config import DiscriminatorConfig, GeneratorConfig

if TYPE_CHECKING:
    from stylert.models.stylegan2.networks import Generator

METADATA_KEY = "stylert"
#: The file in a run's folder from which the run goes on
SNAPSHOT_FILE = "snapshot.safetensors"
FORMAT_VERSION = 1
FLOAT_TYPES = ("F16", "F32", "F64")


@dataclass(frozen=True)
class GeneratorWeights:
    """A generator as data: its configuration and its float32 arrays under the official names."""

    config: GeneratorConfig
    arrays: dict[str, np.ndarray]
    info: dict[str, Any]  # free facts of the file: what it was trained on, for how long, under which licence


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The configuration that a checkpoint carries, after checking that the file is whole.

    Raises CheckpointError when it is missing, truncated, not safetensors, or not stylert's.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist" if not path.exists() else f"checkpoint {path} is not a file")
    try:
        with safe_open(path, framework="numpy") as f:
            metadata = json.loads((f.metadata() or {})[METADATA_KEY])
    except (SafetensorError, OSError) as e:
        raise CheckpointError(f"checkpoint {path} is not a whole safetensors file: {e}") from None
    except (KeyError, ValueError):
        raise CheckpointError(f"checkpoint {path} carries no stylert configuration in its metadata") from None
    if not isinstance(metadata, dict) or metadata.get("kind") not in ("generator", "training"):
        raise CheckpointError(f"checkpoint {path} has an unknown kind of stylert metadata")
    if metadata.get("version") != FORMAT_VERSION:
        raise CheckpointError(
            f"checkpoint {path} has format version {metadata.get('version')}; this stylert reads {FORMAT_VERSION}"
        )
    return metadata


def read_generator(path: str | Path) -> GeneratorWeights:
    """The generator (G_ema) of a checkpoint of either kind, as float32 arrays.

    Raises CheckpointError on a damaged file, a configuration that is not valid, and on tensors that are missing, of the
    wrong shape, or not finite.
    """
    metadata = read_metadata(path)
    prefix = "G_ema." if metadata["kind"] == "training" else ""
    try:
        config = GeneratorConfig.from_dict(metadata["generator"])
    except (KeyError, TypeError, ValueError) as e:
        raise CheckpointError(f"checkpoint {path} has no valid generator configuration: {e}") from None
    stored: dict[str, np.ndarray] = {}
    with safe_open(path, framework="numpy") as f:
        names = set(f.keys())
        for name, shape in generator_shapes(config).items():
            if prefix + name not in names:
                raise CheckpointError(f"checkpoint {path} lacks the tensor {prefix + name}")
            if tuple(f.get_slice(prefix + name).get_shape()) != shape:
                found = f.get_slice(prefix + name).get_shape()
                raise CheckpointError(f"checkpoint {path}: {prefix + name} is {found}, its configuration says {list(shape)}")
            if (dtype := f.get_slice(prefix + name).get_dtype()) not in FLOAT_TYPES:
                raise CheckpointError(
                    f"checkpoint {path}: {prefix + name} is of type {dtype}; read are {', '.join(FLOAT_TYPES)}"
                )
            try:
                stored[prefix + name] = f.get_tensor(prefix + name)
            except (SafetensorError, TypeError, ValueError) as e:
                raise CheckpointError(f"checkpoint {path}: {prefix + name} cannot be read: {e}") from None
            if not np.isfinite(stored[prefix + name]).all():
                raise CheckpointError(f"checkpoint {path}: {prefix + name} holds values that are not finite")
    check_digest(path, metadata, prefix, stored)
    arrays = {name.removeprefix(prefix): array.astype(np.float32) for name, array in stored.items()}
    return GeneratorWeights(config, arrays, metadata.get("info") or {})


def write_generator(
    path: str | Path,
    config: GeneratorConfig,
    arrays: Mapping[str, np.ndarray],
    *,
    half: bool = False,
    info: Mapping[str, Any] | None = None,
) -> None:
    """Write a generator file; `half` stores float16. `info` is kept as free facts. Atomic.

    Raises CheckpointError when a value is not finite in the stored type.
    """
    dtype = np.float16 if half else np.float32
    with np.errstate(over="ignore"):
        tensors = {name: np.array(arrays[name], dtype, order="C") for name in generator_shapes(config)}
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise CheckpointError(f"checkpoint {path} is not written: {name} holds values beyond {tensor.dtype}")
    metadata = {
        "kind": "generator",
        "version": FORMAT_VERSION,
        "generator": config.to_dict(),
        "info": dict(info or {}),
        "sha256": {"": digest(tensors)},
    }
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, {METADATA_KEY: json.dumps(metadata, sort_keys=True)})


def load_generator(path: str | Path) -> Generator:
    """The generator of a checkpoint as a PyTorch module in evaluation mode. Needs torch; errors as `read_generator`."""
    return generator_module(read_generator(path))


def generator_module(weights: GeneratorWeights) -> Generator:
    """Weights as a PyTorch module in evaluation mode. Needs torch."""
    import torch

    from stylert.models.stylegan2.networks import Generator

    generator = Generator(weights.config)
    generator.load_state_dict({name: torch.from_numpy(array) for name, array in weights.arrays.items()})
    return generator.eval().requires_grad_(False)


def digest(tensors: Mapping[str, np.ndarray]) -> str:
    """sha256 over names and bytes. safetensors itself would not notice a changed weight."""
    h = hashlib.sha256()
    for name in sorted(tensors):
        h.update(name.encode() + b"\0")
        h.update(np.array(tensors[name], order="C", copy=None).tobytes())
    return h.hexdigest()


def check_digest(path: str | Path, metadata: Mapping[str, Any], prefix: str, tensors: Mapping[str, np.ndarray]) -> None:
    """CheckpointError when the tensors with `prefix` are not the ones that were written. Files without digests pass."""
    digests = metadata.get("sha256")
    expected = digests.get(prefix) if isinstance(digests, dict) else None
    if expected is not None and digest(tensors) != expected:
        raise CheckpointError(f"checkpoint {path} was changed or damaged: its weights do not match their sha256")


def generator_shapes(cfg: GeneratorConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the generator's state dict and its shape."""
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(prefix: str, fan_in: int, fan_out: int) -> None:
        shapes[f"{prefix}.weight"], shapes[f"{prefix}.bias"] = (fan_out, fan_in), (fan_out,)

    taps = len(cfg.resample_filter)
    for res in cfg.block_resolutions:
        shapes[f"synthesis.b{res}.resample_filter"] = (taps, taps)
    shapes["synthesis.b4.const"] = (cfg.channels(4), 4, 4)
    for spec in cfg.layers():
        name = f"synthesis.{spec.name}"
        linear(f"{name}.affine", cfg.w_dim, spec.in_channels)
        shapes[f"{name}.weight"] = (spec.out_channels, spec.in_channels, spec.kernel, spec.kernel)
        shapes[f"{name}.bias"] = (spec.out_channels,)
        if spec.kind == "conv":
            shapes[f"{name}.noise_const"] = (spec.resolution, spec.resolution)
            shapes[f"{name}.noise_strength"] = ()
            shapes[f"{name}.resample_filter"] = (taps, taps)
    for res, (inner, outer) in cfg.shortcuts().items():
        shapes[f"synthesis.b{res}.skip.weight"] = (outer, inner, 1, 1)
        shapes[f"synthesis.b{res}.skip.resample_filter"] = (taps, taps)
    shapes |= _mapping_shapes(cfg.z_dim, cfg.c_dim, cfg.w_dim, cfg.mapping_layers)
    shapes["mapping.w_avg"] = (cfg.w_dim,)
    return shapes


def discriminator_shapes(cfg: DiscriminatorConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the discriminator's state dict and its shape."""
    shapes: dict[str, tuple[int, ...]] = {}
    taps = len(cfg.resample_filter)

    def conv(name: str, inner: int, outer: int, kernel: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (outer, inner, kernel, kernel)
        shapes[f"{name}.resample_filter"] = (taps, taps)
        if bias:
            shapes[f"{name}.bias"] = (outer,)

    for res in cfg.block_resolutions:
        inner, outer = cfg.channels(res), cfg.channels(res // 2)
        shapes[f"b{res}.resample_filter"] = (taps, taps)
        if res == cfg.resolution or cfg.architecture == "skip":
            conv(f"b{res}.fromrgb", cfg.img_channels, inner, 1)
        conv(f"b{res}.conv0", inner, inner, 3)
        conv(f"b{res}.conv1", inner, outer, 3)
        if cfg.architecture == "resnet":
            conv(f"b{res}.skip", inner, outer, 1, bias=False)
    channels = cfg.channels(4)
    if cfg.architecture == "skip":
        conv("b4.fromrgb", cfg.img_channels, channels, 1)
    conv("b4.conv", channels + cfg.mbstd_num_channels, channels, 3)
    for name, fan_in, fan_out in (("fc", channels * 16, channels), ("out", channels, cfg.cmap_dim or 1)):
        shapes[f"b4.{name}.weight"], shapes[f"b4.{name}.bias"] = (fan_out, fan_in), (fan_out,)
    return shapes | (_mapping_shapes(0, cfg.c_dim, cfg.cmap_dim, cfg.mapping_layers) if cfg.c_dim else {})


def _mapping_shapes(z_dim: int, c_dim: int, w_dim: int, layers: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    if c_dim:
        shapes["mapping.embed.weight"], shapes["mapping.embed.bias"] = (w_dim, c_dim), (w_dim,)
    width = z_dim + (w_dim if c_dim else 0)
    for i in range(layers):
        shapes[f"mapping.fc{i}.weight"], shapes[f"mapping.fc{i}.bias"] = (w_dim, width), (w_dim,)
        width = w_dim
    return shapes
