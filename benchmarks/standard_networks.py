"""The standard models: config F with seeded random weights, so that all machines measure the same network without a download."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from stylert.core.errors import InputError
from stylert.models.checkpoint import GeneratorWeights, write_generator
from stylert.models.stylegan2.config import GeneratorConfig
from stylert.models.stylegan2.state_dict import generator_shapes

RESOLUTIONS = (256, 512, 1024)
NAMES = tuple(f"sg2-{r}" for r in RESOLUTIONS)
SEED = 0


def standard_weights(name: str) -> GeneratorWeights:
    """Weights of a standard model: the initialisation of Karras et al. 2020a, with non-zero noise strengths and biases.

    The values come from NumPy's Philox generator. Its stream is the same on every machine.

    Args:
        name: `sg2-256`, `sg2-512` or `sg2-1024`.

    Raises:
        InputError: The name is unknown.
    """
    if name not in NAMES:
        raise InputError(f"unknown standard model {name!r}: choose one of {', '.join(NAMES)}")
    cfg = GeneratorConfig(int(name.removeprefix("sg2-")), channel_base=32768, mapping_layers=8)
    rng = np.random.Generator(np.random.Philox(SEED))
    arrays = {}
    for key, shape in generator_shapes(cfg).items():
        # Every array draws, so that the values of the later ones do not depend on which are replaced here.
        value: np.ndarray = rng.standard_normal(shape, np.float32)
        if key.endswith("resample_filter"):
            taps = np.outer(cfg.resample_filter, cfg.resample_filter)
            value = taps / taps.sum()
        elif key.endswith("affine.bias"):
            value = np.ones(shape)
        elif key.endswith(("bias", "noise_strength", "w_avg")):
            value = value * 0.1
        elif key.startswith("mapping.") and key.endswith("weight"):
            value = value * 100  # stored as randn / learning rate multiplier, which is 0.01
        arrays[key] = np.asarray(value, np.float32)
    return GeneratorWeights(cfg, arrays, {"model": name, "weights_sha256": _digest(arrays)})


def write_standard(name: str, path: str | Path) -> Path:
    """Write the checkpoint of a standard model.

    Raises:
        InputError: The name is unknown.
    """
    weights = standard_weights(name)
    write_generator(path, weights.config, weights.arrays, info=weights.info)
    return Path(path)


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(arrays.items()):
        digest.update(key.encode() + value.tobytes())
    return digest.hexdigest()
