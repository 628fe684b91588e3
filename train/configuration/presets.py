"""The presets of StyleGAN2-ADA, two for a few CPU cores, and `resolve`: the configuration of a preset for a dataset."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from stylert.core.errors import shown
from stylert.core.images.channels import Channel
from stylert.models.stylegan2.config import CONST_SIDE, DiscriminatorConfig, GeneratorConfig, block_size
from stylert.train.configuration.settings import configs_and_field
from stylert.train.configuration.train_config import RANGES, TrainConfig


@dataclass(frozen=True)
class Preset:
    """One row of `PRESETS`. None stands for a value that `resolve` derives from resolution, batch and number of GPUs.

    The fields are those of `TrainConfig` and of the networks. For `ema_rampup`, None means no limit, as there.
    `mbstd` is `mbstd_group_size`, and `r1_per_pixel` is `r1_gamma` divided by the number of pixels. `batch_gpu` is the
    published batch divided by the published number of GPUs.
    """

    kimg: float
    batch: int | None
    batch_gpu: int | None
    mbstd: int | None
    channel_base: int | None
    lr: float | None
    r1_gamma: float | None
    ema_kimg: float | None
    ema_rampup: float | None
    mapping_layers: int
    channel_max: int = 512
    pl_weight: float = 2.0
    mixing_prob: float = 0.9
    architecture: str = "resnet"
    num_fp16_res: int = 4
    conv_clamp: float | None = 256.0
    half: str = "fp16"
    aug: str = "ada"
    r1_per_pixel: float | None = None


#: Values of both presets for a few CPU cores. bfloat16 has the range of float32, so it needs no clamp.
#: R1 grows with the number of pixels: see docs/decisions/train-r1-weight.md.
CPU: dict[str, Any] = {
    "pl_weight": 0.1,
    "conv_clamp": None,
    "half": "bf16",
    "aug": "noaug",
    "r1_per_pixel": 1.6 / 64**2,
}

#: The remaining values of `cifar`: no path length regularisation and no mixing. The discriminator has no shortcuts.
CIFAR: dict[str, Any] = {"pl_weight": 0.0, "mixing_prob": 0.0, "architecture": "orig"}

#: The presets of StyleGAN2-ADA (Karras et al. 2020b, table 6, and the official code), and two for a few CPU cores.
PRESETS: dict[str, Preset] = {
    #                       kimg  batch _gpu mbstd  base    lr     gamma ema  ramp mapping
    "auto": Preset(25_000, None, None, None, None, None, None, None, 0.05, 2),
    "stylegan2": Preset(25_000, 32, 4, 4, 32768, 0.002, 10.0, 10, None, 8),
    "paper256": Preset(25_000, 64, 8, 8, 16384, 0.0025, 1.0, 20, None, 8),
    "paper512": Preset(25_000, 64, 8, 8, 32768, 0.0025, 0.5, 20, None, 8),
    "paper1024": Preset(25_000, 32, 4, 4, 32768, 0.002, 2.0, 10, None, 8),
    "cifar": Preset(100_000, 64, 32, 32, 32768, 0.0025, 0.01, 500, 0.05, 2, **CIFAR),
    "cpu": Preset(100, 16, None, 4, 2048, 0.0025, None, 5, 0.05, 2, channel_max=128, **CPU),
    "cpu-small": Preset(100, 16, None, 4, 1024, 0.0025, None, 5, 0.05, 2, channel_max=64, **CPU),
}

#: Values of a run that starts from trained networks, unless the user gives others (Karras et al. 2020b, and the official
#: code). Augmentation reaches full strength sooner. Without a ramp-up, G_ema stays what it was.
FROM_TRAINED_NETWORKS: dict[str, Any] = {"ada_kimg": 100.0, "ema_rampup": None}

#: Values of a run with a projected discriminator, unless the user gives others (Sauer et al. 2021). R1 is taken with
#: respect to the maps, not the image, so it is cheap and runs more often. See docs/decisions/train-projected.md.
WITH_PROJECTED: dict[str, Any] = {
    "loss": "hinge",
    "lr": 0.001,
    "d_lr": 0.0005,
    "r1_gamma": 1.0,
    "d_reg_interval": 4,
    "pl_weight": 0.0,
    "aug": "fixed",
    "aug_p": 0.5,
    "aug_pipeline": "diffaug",
}


def resolve(
    preset: str,
    resolution: int,
    c_dim: int = 0,
    img_channels: int = 3,
    gpus: int = 1,
    image_channels: tuple[Channel, ...] | None = None,
    const_height: int = CONST_SIDE,
    const_width: int = CONST_SIDE,
    **overrides: Any,
) -> TrainConfig:
    """The configuration of a preset for a dataset.

    A projected discriminator has the values of `WITH_PROJECTED`. With the relativistic loss, R2 has the weight of R1.
    With another `batch`, `auto` derives R1's weight, G_ema's half-life and the minibatch-std group from it. The published
    presets keep these values, and their `batch_gpu` becomes the share of a process.

    Args:
        preset: A name of `PRESETS`.
        resolution: Side of square images in pixels. In general, the resolution of `network_size`.
        c_dim: Label dimensions; 0 for none.
        img_channels: Channels of the images.
        gpus: Number of processes that share the batch.
        image_channels: The channels of images of measured values; None for pictures.
        const_height: Height of the learned constant, as of `network_size`.
        const_width: Its width.
        overrides: New values, by the names of `settings`. A value of one network takes precedence over one of both.

    Raises:
        ValueError: The preset or a field is unknown, or a value is out of range.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}")
    p = PRESETS[preset]
    given_batch = overrides.pop("batch", None)
    batch = given_batch
    if batch is None:
        batch = p.batch or max(min(gpus * min(4096 // max(resolution, 1), 32), 64), gpus)
    least, greatest = RANGES["batch"]
    if not isinstance(batch, int) or not least <= batch <= greatest:  # other values are derived from it
        raise ValueError(f"batch must be a whole number from {least} to {greatest}, not {shown(batch)}")
    network: dict[str, Any] = {
        "resolution": resolution,
        "c_dim": c_dim,
        "img_channels": img_channels,
        "const_height": const_height,
        "const_width": const_width,
        "channel_base": p.channel_base or (32768 if resolution >= 512 else 16384),
        "channel_max": p.channel_max,
        "num_fp16_res": p.num_fp16_res,
        "conv_clamp": p.conv_clamp,
    }
    generator: dict[str, Any] = {**network, "mapping_layers": p.mapping_layers, "image_channels": image_channels}
    discriminator: dict[str, Any] = {
        **network,
        "architecture": p.architecture,
        "mbstd_group_size": p.mbstd or max(min(batch // gpus, 4), 1),
    }
    run: dict[str, Any] = {
        "batch": batch,
        "kimg": p.kimg,
        "lr": p.lr or (0.002 if resolution >= 1024 else 0.0025),
        "r1_gamma": _r1_gamma(p, math.prod(block_size(resolution, const_height, const_width)), batch),
        "ema_kimg": p.ema_kimg if p.ema_kimg is not None else batch * 10 / 32,
        "ema_rampup": p.ema_rampup,
        "pl_weight": p.pl_weight,
        "mixing_prob": p.mixing_prob,
        "half": p.half,
        "aug": p.aug if img_channels in (1, 3) else "noaug",
        "batch_gpu": _batch_gpu(None if given_batch is not None else p.batch_gpu, batch, gpus),
    }
    if overrides.get("projected") is not None:
        run |= WITH_PROJECTED
        if (side := overrides.get("projected_pixels")) is not None:
            run["pixels_r1_gamma"] = _r1_gamma(p, side**2, batch)
        if "aug" in overrides:  # another augmentation than `fixed` has another p
            run["aug_p"] = 0.0
    if overrides.get("loss") == "relativistic":
        run["r2_gamma"] = overrides.get("r1_gamma", run["r1_gamma"])
    values = {"generator": generator, "discriminator": discriminator, "run": run}
    # Names with a dot come last, so that a value of one network replaces that of both.
    for name, value in sorted(overrides.items(), key=lambda item: "." in item[0]):
        configs, field = configs_and_field(name)
        for key in configs:
            values[key][field] = value
    return TrainConfig(GeneratorConfig(**generator), DiscriminatorConfig(**discriminator), **run)


def _batch_gpu(published: int | None, batch: int, gpus: int) -> int | None:
    """Images that pass through the networks at once: the published number, or the share of a process if it is smaller."""
    share = batch // gpus if batch % gpus == 0 else None
    if published is None:
        return share if gpus > 1 else None
    return published if share is None else min(published, share)


def _r1_gamma(p: Preset, pixels: int, batch: int) -> float:
    """R1's weight: the published one, or in proportion to the number of pixels."""
    if p.r1_gamma is not None:
        return p.r1_gamma
    per_pixel = 0.0002 / batch if p.r1_per_pixel is None else p.r1_per_pixel
    return per_pixel * pixels
