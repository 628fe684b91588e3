"""The standard models: config F with seeded random weights, so that any two machines do the same work with no download."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from stylert.core.errors import InputError
from stylert.models.checkpoint import GeneratorWeights, generator_shapes, write_generator
from stylert.models.stylegan2.config import GeneratorConfig

RESOLUTIONS = (256, 512, 1024)
NAMES = tuple(f"sg2-{r}" for r in RESOLUTIONS)
SEED = 0


def standard_weights(name: str) -> GeneratorWeights:
    """The weights of `sg2-256`, `sg2-512` or `sg2-1024`: as initialised (Karras et al. 2020a), with noise and biases that are
    not zero, as in a trained network. NumPy's Philox generator, whose stream is the same everywhere.

    Raises InputError for another name.
    """
    if name not in NAMES:
        raise InputError(f"unknown standard model {name!r}: choose one of {', '.join(NAMES)}")
    cfg = GeneratorConfig(int(name.removeprefix("sg2-")), channel_base=32768, mapping_layers=8)
    rng = np.random.Generator(np.random.Philox(SEED))
    arrays = {}
    for key, shape in generator_shapes(cfg).items():
        value: np.ndarray = rng.standard_normal(shape, np.float32)
        if key.endswith("resample_filter"):
            taps = np.outer(cfg.resample_filter, cfg.resample_filter)
            value = taps / taps.sum()
        elif key.endswith("affine.bias"):
            value = np.ones(shape)
        elif key.endswith(("bias", "noise_strength", "w_avg")):
            value = value * 0.1
        elif key.startswith("mapping.") and key.endswith("weight"):
            value = value * 100  # stored as randn / 0.01, the learning rate multiplier
        arrays[key] = np.asarray(value, np.float32)
    return GeneratorWeights(cfg, arrays, {"model": name, "weights_sha256": _digest(arrays)})


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(arrays.items()):
        digest.update(key.encode() + value.tobytes())
    return digest.hexdigest()


def write_standard(name: str, path: str | Path) -> Path:
    """A checkpoint of a standard model. Raises as `standard_weights`."""
    weights = standard_weights(name)
    write_generator(path, weights.config, weights.arrays, info=weights.info)
    return Path(path)
