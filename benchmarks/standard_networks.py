"""The standard models: seeded random weights, so that all machines measure the same networks without a download.

`sg1-*` is StyleGAN1 as in its paper, and `sg2-*` is StyleGAN2's configuration F. `sg3-t-256` and `sg3-r-256` are StyleGAN3's
configurations T and R.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np

from stylert.core.errors import InputError
from stylert.models.checkpoint import AnyWeights, NetworkWeights, write_generator
from stylert.models.network_config import BaseGeneratorConfig
from stylert.models.stylegan1.config import GeneratorConfig as Stylegan1Config
from stylert.models.stylegan1.state_dict import generator_shapes as stylegan1_shapes
from stylert.models.stylegan2.config import GeneratorConfig
from stylert.models.stylegan2.state_dict import generator_shapes
from stylert.models.stylegan3.config import GeneratorConfig as Stylegan3Config
from stylert.models.stylegan3.filters import down_filter, up_filter
from stylert.models.stylegan3.state_dict import generator_shapes as stylegan3_shapes

STYLEGAN1_NAMES = ("sg1-256", "sg1-1024")
STYLEGAN2_NAMES = ("sg2-256", "sg2-512", "sg2-1024")
STYLEGAN3_NAMES = ("sg3-t-256", "sg3-r-256")
NAMES = (*STYLEGAN1_NAMES, *STYLEGAN2_NAMES, *STYLEGAN3_NAMES)
SEED = 0


def title_of(name: str) -> str:
    """The title of a standard model's network, for people."""
    titles = {Stylegan1Config.title: STYLEGAN1_NAMES, Stylegan3Config.title: STYLEGAN3_NAMES}
    return next((title for title, names in titles.items() if name in names), GeneratorConfig.title)


def standard_weights(name: str) -> AnyWeights:
    """Weights of a standard model: the initialisation of the papers, with non-zero noise strengths and biases.

    The values come from NumPy's Philox generator. Its stream is the same on every machine.

    Args:
        name: One of `NAMES`.

    Raises:
        InputError: The name is unknown.
    """
    if name not in NAMES:
        raise InputError(f"unknown standard model {name!r}: choose one of {', '.join(NAMES)}")
    config: BaseGeneratorConfig
    rng = np.random.Generator(np.random.Philox(SEED))
    if name in STYLEGAN1_NAMES:
        config = Stylegan1Config(int(name.removeprefix("sg1-")))
        arrays = _stylegan1_arrays(config, rng)
    elif name in STYLEGAN2_NAMES:
        config = GeneratorConfig(int(name.removeprefix("sg2-")), channel_base=32768, mapping_layers=8)
        arrays = _stylegan2_arrays(config, rng)
    else:
        config = Stylegan3Config(256) if name == "sg3-t-256" else Stylegan3Config.configuration_r(256)
        arrays = _stylegan3_arrays(config, rng)
    arrays = {key: np.asarray(value, np.float32) for key, value in arrays.items()}
    return NetworkWeights(config, arrays, {"model": name, "weights_sha256": _digest(arrays)})


def _stylegan1_arrays(cfg: Stylegan1Config, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Karras et al. 2018."""
    arrays = {}
    for key, shape in stylegan1_shapes(cfg).items():
        value: np.ndarray = rng.standard_normal(shape, np.float32)
        if key.endswith("affine.bias"):
            value = np.repeat([1.0, 0.0], shape[0] // 2)
        elif key.endswith(("bias", "noise_strength", "w_avg")):
            value = value * 0.1
        elif key.endswith("input.const"):
            value = np.ones(shape)
        elif key.startswith("mapping.") and key.endswith("weight"):
            value = value * 100  # stored as randn / learning rate multiplier, which is 0.01
        arrays[key] = value
    return arrays


def _stylegan2_arrays(cfg: GeneratorConfig, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Karras et al. 2020a."""
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
        arrays[key] = value
    return arrays


def _stylegan3_arrays(cfg: Stylegan3Config, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Karras et al. 2021. The averages of magnitudes are 1, as before the first step of training."""
    arrays = {}
    for key, shape in stylegan3_shapes(cfg).items():
        value: np.ndarray = rng.standard_normal(shape, np.float32)
        if key.endswith("input.affine.bias"):
            value = np.array([1.0, 0, 0, 0])
        elif key.endswith(("affine.bias", "magnitude_ema")):
            value = np.ones(shape)
        elif key.endswith(("bias", "w_avg", "input.affine.weight")):
            value = value * 0.1
        elif key.startswith("mapping.") and key.endswith("weight"):
            value = value * 100
        elif key.endswith("transform"):
            value = np.eye(3)
        elif key.endswith("phases"):
            value = rng.random(shape, np.float32) - 0.5
        elif key.endswith("freqs"):  # uniform in the disc of the first layer's band
            angles, radii = rng.random(shape[0]) * (2 * math.pi), np.sqrt(rng.random(shape[0])) * cfg.first_cutoff
            value = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
        arrays[key] = value
    for layer in cfg.layers():
        for kind, f in (("up_filter", up_filter(layer)), ("down_filter", down_filter(layer))):
            if f is not None:
                arrays[f"synthesis.{layer.name}.{kind}"] = f
    return arrays


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
