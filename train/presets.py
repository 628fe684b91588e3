"""The configuration of a training run, and the presets of StyleGAN2-ADA. Loads without PyTorch.

`resolve` makes a `TrainConfig` from a preset, the shape of the data, and overrides of single values.
Field names are those of the official code: `kimg`, `r1_gamma`, `pl_weight`, `ema_kimg`, `ada_target`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from stylert.core.errors import shown
from stylert.core.ranges import check_ranges
from stylert.models.stylegan2.config import DiscriminatorConfig, GeneratorConfig
from stylert.train.augment.groups import PIPELINES

#: Most steps, images or repetitions.
MAX_COUNT = 2**31 - 1
#: Greatest length in thousands of images, and greatest weight of a loss.
MAX_KIMG = MAX_WEIGHT = 1e9
#: Least and greatest value of every number in `TrainConfig`, apart from the seed.
RANGES: dict[str, tuple[float, float]] = {
    "batch": (1, 65536),
    "batch_gpu": (1, 65536),
    "kimg": (0, MAX_KIMG),
    "lr": (0, 1000),
    "d_lr": (0, 1000),
    "projected": (32, 4096),
    "r1_gamma": (0, MAX_WEIGHT),
    "r2_gamma": (0, MAX_WEIGHT),
    "pl_weight": (0, MAX_WEIGHT),
    "pl_decay": (0, 1),
    "pl_batch_shrink": (1, 65536),
    "mixing_prob": (0, 1),
    "g_reg_interval": (1, MAX_COUNT),
    "d_reg_interval": (1, MAX_COUNT),
    "ema_kimg": (0, MAX_KIMG),
    "ema_rampup": (0, MAX_KIMG),
    "aug_p": (0, 1),
    "ada_target": (-1, 1),
    "ada_kimg": (0, MAX_KIMG),
    "freeze_d": (0, 65536),
    "subset": (1, MAX_COUNT),
}


#: The choices of `TrainConfig.loss`.
LOSSES = ("logistic", "relativistic", "hinge")


@dataclass(frozen=True)
class TrainConfig:
    """All hyperparameters of a run. Together with the dataset, they determine its result.

    Attributes:
        generator: Configuration of G.
        discriminator: Configuration of D.
        batch: Images per step, over all processes.
        kimg: Length of the run in thousands of real images shown to D.
        lr: Learning rate of both Adam optimizers, before the factor of lazy regularisation.
        d_lr: Learning rate of D instead; None for `lr`.
        loss: The adversarial loss, a name of `losses.ADVERSARIAL_LOSSES`.
        projected: Side in pixels of the images that a projected discriminator sees (Sauer et al. 2021), a multiple of
            32; None trains StyleGAN2's discriminator. Of `discriminator`, a projected one uses `mbstd_group_size` alone.
        r1_gamma: Weight of R1; 0 trains without.
        r2_gamma: Weight of R2, in the steps of R1; 0 trains without. R3GAN gives it the value of `r1_gamma`.
        pl_weight: Weight of path length regularisation; 0 trains without.
        pl_decay: Weight of the new lengths in the moving average `pl_mean`.
        pl_batch_shrink: Path length uses a batch that is smaller by this factor.
        mixing_prob: Probability of style mixing.
        g_reg_interval: Steps between two path length regularisations.
        d_reg_interval: Steps between two R1 regularisations.
        ema_kimg: Half-life of the moving average G_ema, in thousands of images.
        ema_rampup: Limits the half-life to this share of the images shown so far; None for no limit.
        half: Type of the `num_fp16_res` highest resolutions: none, fp16 or bf16.
        seed: Seed of initial weights, data order and all random numbers.
        aug: Augmentation: noaug, fixed (with probability `aug_p`) or ada (adaptive, starting from `aug_p`).
        aug_pipeline: A name of `PIPELINES`.
        aug_p: Probability of each transformation.
        ada_target: Target of the overfitting heuristic r_t, the mean sign of D(real).
        ada_kimg: Thousands of images in which p can rise from 0 to 1.
        batch_gpu: Images that pass through the networks at once; None for the whole share of a process.
        freeze_d: Number of layers of D, beginning at the image, that are not trained (Mo et al. 2020).
        subset: Number of random images of the dataset to train on; None for all.
        mirror: Whether to train on the mirror image of each image as well.
        class_balanced: Whether to draw each class equally often.

    Raises:
        ValueError: A value is out of range, or values do not fit together.
    """

    generator: GeneratorConfig
    discriminator: DiscriminatorConfig
    batch: int
    kimg: float
    lr: float = 0.002
    d_lr: float | None = None
    loss: str = "logistic"
    projected: int | None = None
    r1_gamma: float = 10.0
    r2_gamma: float = 0.0
    pl_weight: float = 2.0
    pl_decay: float = 0.01
    pl_batch_shrink: int = 2
    mixing_prob: float = 0.9
    g_reg_interval: int = 4
    d_reg_interval: int = 16
    ema_kimg: float = 10.0
    ema_rampup: float | None = None
    half: str = "none"
    seed: int = 0
    aug: str = "noaug"
    aug_pipeline: str = "bgc"
    aug_p: float = 0.0
    ada_target: float = 0.6
    ada_kimg: float = 500.0
    batch_gpu: int | None = None
    freeze_d: int = 0
    subset: int | None = None
    mirror: bool = False
    class_balanced: bool = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{field.name} must be finite, not {value}")
        check_ranges(self, RANGES)
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must lie in 0 to 2^63 - 1, not {shown(self.seed)}")
        if self.lr <= 0 or self.d_lr == 0 or self.ada_kimg <= 0:
            raise ValueError("lr, d_lr and ada_kimg must be positive")
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, not {shown(self.loss)}")
        if self.r2_gamma > 0 and self.r1_gamma == 0:
            raise ValueError("r2_gamma needs r1_gamma: R2 runs in the steps of R1")
        if self.projected is not None:
            self._check_projected(self.projected)
        if self.half not in ("none", "fp16", "bf16"):
            raise ValueError(f"half must be none, fp16 or bf16, not {self.half!r}")
        if self.aug not in ("noaug", "fixed", "ada"):
            raise ValueError(f"aug must be noaug, fixed or ada, not {self.aug!r}")
        if self.aug_pipeline not in PIPELINES:
            raise ValueError(f"unknown augmentation pipeline {self.aug_pipeline!r}: choose one of {', '.join(PIPELINES)}")
        if self.aug != "noaug" and self.generator.img_channels not in (1, 3):
            raise ValueError("augmentation takes grey or RGB images: train with aug noaug")
        name, micro_batch = ("batch", self.batch) if self.batch_gpu is None else ("batch_gpu", self.batch_gpu)
        if self.batch % micro_batch:
            raise ValueError(f"batch {self.batch} must be a multiple of batch_gpu {micro_batch}")
        group = min(self.discriminator.mbstd_group_size or micro_batch, micro_batch)
        if micro_batch % group:
            raise ValueError(f"{name} {micro_batch} must be a multiple of the minibatch-std group {group}")

    def _check_projected(self, size: int) -> None:
        if size % 32:
            raise ValueError(f"projected must be a multiple of 32, not {size}")
        if self.generator.img_channels not in (1, 3):
            raise ValueError("a projected discriminator takes grey or RGB images")
        if self.freeze_d > 0:
            raise ValueError("a projected discriminator has no layers to freeze: leave out freeze_d")

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values, as a snapshot stores them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TrainConfig:
        """The configuration that `to_dict` wrote. Fields that an older version did not have get their defaults.

        Raises:
            ValueError: A field is unknown, missing or wrong. The message names it.
        """
        unknown = sorted(set(data) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"unknown field {unknown[0]!r}")
        networks: dict[str, Any] = {"generator": GeneratorConfig, "discriminator": DiscriminatorConfig}
        for name, config in networks.items():
            if not isinstance(data.get(name), dict):
                raise ValueError(f"{name} is missing")
            data = {**data, name: config.from_dict(data[name])}
        return msgspec.convert(data, cls)


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


#: The three configurations that a setting can belong to.
CONFIGS: dict[str, Any] = {"run": TrainConfig, "generator": GeneratorConfig, "discriminator": DiscriminatorConfig}

#: Fields that the images and labels decide.
FROM_DATA = ("resolution", "c_dim", "img_channels")

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


#: Values of a run with a projected discriminator, unless the user gives others (Sauer et al. 2021). R1 is that
#: of its maps, which is cheap. See docs/decisions/train-projected.md.
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
    preset: str, resolution: int, c_dim: int = 0, img_channels: int = 3, gpus: int = 1, **overrides: Any
) -> TrainConfig:
    """The configuration of a preset for a dataset.

    A projected discriminator has the values of `WITH_PROJECTED`. With the relativistic loss, R2 has the weight of R1.
    With another `batch`, `auto` derives R1's weight, G_ema's half-life and the minibatch-std group from it. The published
    presets keep these values, and their `batch_gpu` becomes the share of a process.

    Args:
        preset: A name of `PRESETS`.
        resolution: Side of the images in pixels.
        c_dim: Label dimensions; 0 for none.
        img_channels: 1 or 3.
        gpus: Number of processes that share the batch.
        overrides: New values of fields. `NAME` is a field of `TrainConfig` or of both networks; `generator.NAME` and
            `discriminator.NAME` are fields of one network, and take precedence.

    Raises:
        ValueError: The preset or a field is unknown, or a value is out of range.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}")
    p = PRESETS[preset]
    given_batch = overrides.pop("batch", None)
    batch = given_batch
    if batch is None:
        batch = p.batch or max(min(gpus * min(4096 // resolution, 32), 64), gpus)
    least, greatest = RANGES["batch"]
    if not least <= batch <= greatest:  # other values are derived from it
        raise ValueError(f"batch must lie in {least} to {greatest}, not {shown(batch)}")
    network: dict[str, Any] = {
        "resolution": resolution,
        "c_dim": c_dim,
        "img_channels": img_channels,
        "channel_base": p.channel_base or (32768 if resolution >= 512 else 16384),
        "channel_max": p.channel_max,
        "num_fp16_res": p.num_fp16_res,
        "conv_clamp": p.conv_clamp,
    }
    generator: dict[str, Any] = {**network, "mapping_layers": p.mapping_layers}
    discriminator: dict[str, Any] = {
        **network,
        "architecture": p.architecture,
        "mbstd_group_size": p.mbstd or max(min(batch // gpus, 4), 1),
    }
    run: dict[str, Any] = {
        "batch": batch,
        "kimg": p.kimg,
        "lr": p.lr or (0.002 if resolution >= 1024 else 0.0025),
        "r1_gamma": _r1_gamma(p, resolution, batch),
        "ema_kimg": p.ema_kimg if p.ema_kimg is not None else batch * 10 / 32,
        "ema_rampup": p.ema_rampup,
        "pl_weight": p.pl_weight,
        "mixing_prob": p.mixing_prob,
        "half": p.half,
        "aug": p.aug if img_channels in (1, 3) else "noaug",
        "batch_gpu": _batch_gpu(p.batch_gpu if given_batch is None else None, batch, gpus),
    }
    if overrides.get("projected") is not None:
        run |= WITH_PROJECTED
        if "aug" in overrides:  # another augmentation than `fixed` has another p
            run["aug_p"] = 0.0
    if overrides.get("loss") == "relativistic":
        run["r2_gamma"] = overrides.get("r1_gamma", run["r1_gamma"])
    values = {"generator": generator, "discriminator": discriminator, "run": run}
    # Names with a dot come last, so that a value of one network replaces that of both.
    for name, value in sorted(overrides.items(), key=lambda item: "." in item[0]):
        for part in _configs_with(name):
            values[part][_field(name)] = value
    return TrainConfig(GeneratorConfig(**generator), DiscriminatorConfig(**discriminator), **run)


def changed_settings(cfg: TrainConfig, overrides: dict[str, Any]) -> list[str]:
    """Names of the overrides whose value differs from that in `cfg`, sorted. The names are those of `resolve`."""
    parts = {"run": cfg, "generator": cfg.generator, "discriminator": cfg.discriminator}
    changed = []
    for name, value in overrides.items():
        current = [getattr(parts[part], _field(name)) for part in _configs_with(name)]
        if any(v != value for v in current):
            changed.append(name)
    return sorted(changed)


def parse_setting(name: str, text: str) -> Any:
    """The value of an override from its text, in the type of the field.

    Args:
        name: As in `resolve`.
        text: `none` for None, `true` or `false`; numbers of a tuple are separated by commas.

    Raises:
        ValueError: The name is unknown or decided by the data, or the text is no value of this type.
    """
    field = _field(name)
    hint = get_type_hints(CONFIGS[_configs_with(name)[0]])[field]
    if field in FROM_DATA:
        raise ValueError(f"{name} is decided by the data")
    types = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if text.lower() == "none" and type(None) in types:
        return None
    try:
        if get_origin(hint) is tuple:
            return tuple(float(part) for part in text.split(","))
        if bool in types:
            return {"true": True, "false": False}[text.lower()]
        if int in types:
            return int(text)
        return float(text) if float in types else text
    except (KeyError, ValueError):
        raise ValueError(f"{name} cannot be {shown(text)}") from None


def _field(name: str) -> str:
    """The field of a setting: `NAME` of `generator.NAME`."""
    return name.rpartition(".")[2]


def _configs_with(name: str) -> list[str]:
    """The keys of `CONFIGS` that have the field of this setting. ValueError where there is none."""
    prefix, _, field = name.rpartition(".")
    candidates = list(CONFIGS)
    if prefix:
        candidates = [prefix] if prefix in ("generator", "discriminator") else []
    matches = []
    for part in candidates:
        fields = {f.name for f in dataclasses.fields(CONFIGS[part])} - set(CONFIGS)
        if field in fields:
            matches.append(part)
    if not matches:
        raise ValueError(f"unknown training option {name!r}")
    return matches


def _batch_gpu(published: int | None, batch: int, gpus: int) -> int | None:
    """Images that pass through the networks at once: the published number, or the share of a process if it is smaller."""
    share = batch // gpus if batch % gpus == 0 else None
    if published is None:
        return share if gpus > 1 else None
    return published if share is None else min(published, share)


def _r1_gamma(p: Preset, resolution: int, batch: int) -> float:
    if p.r1_gamma is not None:
        return p.r1_gamma
    per_pixel = 0.0002 / batch if p.r1_per_pixel is None else p.r1_per_pixel
    return per_pixel * resolution**2
