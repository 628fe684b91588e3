"""Writes checkpoints for rosinality/stylegan2-pytorch: `{g, d, g_ema, g_optim, d_optim, latent_avg}`.

Its code has a generator of the skip architecture with one width for z and w, and a discriminator of the residual one. It has no
labels and no filter but [1, 3, 3, 1]. Adam starts without a state, as at the first step.
"""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np

from stylert.core.errors import InputError
from stylert.models.converters.networks import NetworksToWrite
from stylert.models.converters.torch_file import write_torch_file
from stylert.models.importers.rosinality import MBSTD_GROUP_SIZE, WRITER_ENTRY
from stylert.models.importers.rosinality_names import (
    discriminator_blocks,
    discriminator_names,
    generator_names,
    stored_shape,
)
from stylert.models.importers.settings import epsilon_note, fir_filter
from stylert.models.stylegan2.config import FIR_TAPS, DiscriminatorConfig, GeneratorConfig

#: Its learning rate, and the steps between two regularisations of each network. Lazy regularisation scales Adam's numbers by them.
LEARNING_RATE = 0.002
REGULARISED_EVERY = {"g_optim": 4, "d_optim": 16}
BETAS = (0.0, 0.99)


def write_rosinality(file: BinaryIO, networks: NetworksToWrite) -> list[str]:
    """Write a checkpoint. Returns notes for the user.

    Raises:
        InputError: The generator has a setting that rosinality's code lacks. The message names it.
    """
    cfg = networks.config
    if not isinstance(cfg, GeneratorConfig):
        raise InputError(f"rosinality's code has no {cfg.title}")
    cfg.require_usual_shape("rosinality's code")
    _check_generator(cfg)
    notes = [epsilon_note("rosinality's code"), *_generator_notes(cfg)]
    content: dict[str, Any] = {WRITER_ENTRY: "stylegan2-pytorch"}
    content |= {"g_ema": _generator(cfg, networks.generator), "latent_avg": networks.generator["mapping.w_avg"]}
    if networks.raw is not None:
        content["g"] = _generator(cfg, networks.raw)
        content["g_optim"] = _new_adam(content["g"], "g_optim")
    if networks.discriminator is not None and networks.discriminator_config is not None:
        lacking = _discriminator_refusal(networks.discriminator_config)
        if lacking is None:
            content["d"] = _discriminator(networks.discriminator_config, networks.discriminator)
            content["d_optim"] = _new_adam(content["d"], "d_optim")
        else:
            notes.append(f"left out D: {lacking}")
    if "g_optim" in content:
        notes.append("Adam starts without a state: give --ckpt to its train.py, under a name that is the number of the step")
    write_torch_file(file, content)
    return notes


# --- settings ------------------------------------------------------------------------------------------------------


def _check_generator(cfg: GeneratorConfig) -> None:
    refusals = {
        "labels": cfg.c_dim,
        f"the architecture {cfg.architecture}": cfg.architecture != "skip",
        f"z of {cfg.z_dim} and w of {cfg.w_dim} numbers": cfg.z_dim != cfg.w_dim,
        f"the filter {list(cfg.resample_filter)}": not _is_usual_filter(cfg.resample_filter),
        "no block above 4 px": cfg.resolution == 4,
    }
    for setting, refused in refusals.items():
        if refused:
            raise InputError(f"rosinality's code has no generator with {setting}")


def _discriminator_refusal(cfg: DiscriminatorConfig) -> str | None:
    refusals = {
        "labels": cfg.c_dim,
        f"the architecture {cfg.architecture}": cfg.architecture != "resnet",
        f"{cfg.mbstd_num_channels} maps of minibatch deviation": cfg.mbstd_num_channels != 1,
        f"groups of {cfg.mbstd_group_size} samples": cfg.mbstd_group_size != MBSTD_GROUP_SIZE,
        f"the filter {list(cfg.resample_filter)}": not _is_usual_filter(cfg.resample_filter),
    }
    lacking = [setting for setting, refused in refusals.items() if refused]
    return f"rosinality's code has no discriminator with {lacking[0]}" if lacking else None


def _is_usual_filter(taps: tuple[float, ...]) -> bool:
    usual = fir_filter(FIR_TAPS)
    return len(taps) == len(FIR_TAPS) and np.allclose(fir_filter(taps), usual, rtol=1e-6, atol=0)


def _generator_notes(cfg: GeneratorConfig) -> list[str]:
    notes = []
    table = _channel_table(cfg)
    if table is not None:
        notes.append(f"its Generator and Discriminator have other channels: put {table} in place of their table `channels`")
    if cfg.img_channels != 3:
        notes.append(
            f"its code has images of 3 channels, these have {cfg.img_channels}: change the 3 of ToRGB and of Discriminator"
        )
    sizes = {"style_dim": (cfg.w_dim, 512), "n_mlp": (cfg.mapping_layers, 8)}
    unusual = ", ".join(f"{name}={size}" for name, (size, usual) in sizes.items() if size != usual)
    if unusual:
        notes.append(f"make its Generator with {unusual}")
    if cfg.conv_clamp is not None:
        notes.append(f"its code does not bound values: those beyond {cfg.conv_clamp:g} pass")
    if cfg.num_fp16_res:
        notes.append("its code runs in float32 alone")
    return notes


def _channel_table(cfg: GeneratorConfig) -> dict[int, int] | None:
    """The channels by resolution, or None if rosinality's table has them for some whole `channel_multiplier`."""
    channels = {res: cfg.channels(res) for res in cfg.block_resolutions}
    multiplier = max(1, round(channels[cfg.resolution] * cfg.resolution / 16384))
    usual = {res: 512 if res <= 32 else 16384 // res * multiplier for res in channels}
    return None if channels == usual else channels


# --- tensors -------------------------------------------------------------------------------------------------------


def _generator(cfg: GeneratorConfig, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    blocks = len(cfg.block_resolutions) - 1
    names = generator_names(blocks, cfg.mapping_layers)
    state = {theirs: arrays[ours].reshape(stored_shape(ours, arrays[ours].shape)) for ours, theirs in names.items()}
    # Every second convolution doubles the resolution. A filter behind zeros has the gain of the samples that they replace.
    kernel = fir_filter(FIR_TAPS) * 4
    for i in range(blocks):
        state |= {f"convs.{2 * i}.conv.blur.kernel": kernel, f"to_rgbs.{i}.upsample.kernel": kernel}
    return state


def _discriminator(cfg: DiscriminatorConfig, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    blocks = discriminator_blocks(cfg.resolution, len(cfg.block_resolutions))
    state = {theirs: arrays[ours] for ours, theirs in discriminator_names(cfg.resolution, blocks).items()}
    for block in blocks.values():
        state |= {f"{block}.conv2.0.kernel": fir_filter(FIR_TAPS), f"{block}.skip.0.kernel": fir_filter(FIR_TAPS)}
    return state


def _new_adam(state: dict[str, np.ndarray], optimizer: str) -> dict[str, Any]:
    """The state of Adam before its first step over the parameters of a network."""
    parameters = [name for name in state if not name.endswith(".kernel") and not name.startswith("noises.")]
    every = REGULARISED_EVERY[optimizer]
    share = every / (every + 1)
    group = {
        "lr": LEARNING_RATE * share,
        "betas": tuple(beta**share for beta in BETAS),
        "eps": 1e-8,
        "weight_decay": 0,
        "amsgrad": False,
        "params": list(range(len(parameters))),
    }
    return {"state": {}, "param_groups": [group]}
