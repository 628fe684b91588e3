"""How a training run is set up: hyperparameters by preset, every value overridable. No torch."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from stylert.models.stylegan2.config import DiscriminatorConfig, GeneratorConfig
from stylert.train.augment.pipelines import PIPELINES


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the course of a run, apart from the data. Units are images, or thousands of them (kimg)."""

    generator: GeneratorConfig
    discriminator: DiscriminatorConfig
    batch: int
    kimg: float
    lr: float = 0.002
    r1_gamma: float = 10.0
    pl_weight: float = 2.0
    pl_decay: float = 0.01
    pl_batch_shrink: int = 2
    mixing_prob: float = 0.9
    g_reg_interval: int = 4
    d_reg_interval: int = 16
    ema_kimg: float = 10.0
    ema_rampup: float | None = None
    half: str = "none"  # type of the num_fp16_res highest resolutions: none, fp16, bf16
    seed: int = 0
    aug: str = "noaug"  # noaug, fixed (with probability aug_p), ada (adaptive, starting from aug_p)
    aug_pipeline: str = "bgc"
    aug_p: float = 0.0
    ada_target: float = 0.6
    ada_kimg: float = 500.0  # from p = 0 to 1 at the fastest
    batch_gpu: int | None = None  # images that pass through the networks at once; the share of a process by default
    freeze_d: int = 0  # layers of the discriminator, from the image inwards, that stay as they are (Mo et al. 2020)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{field.name} must be finite, not {value}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must lie in 0 to 2^63 - 1, not {self.seed}")
        if self.batch < 1 or self.kimg < 0 or self.lr <= 0:
            raise ValueError("batch must be at least 1, kimg at least 0 and lr positive")
        if self.half not in ("none", "fp16", "bf16"):
            raise ValueError(f"half must be none, fp16 or bf16, not {self.half!r}")
        for name in ("g_reg_interval", "d_reg_interval", "pl_batch_shrink"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.aug not in ("noaug", "fixed", "ada"):
            raise ValueError(f"aug must be noaug, fixed or ada, not {self.aug!r}")
        if self.aug_pipeline not in PIPELINES:
            raise ValueError(f"unknown augmentation pipeline {self.aug_pipeline!r}: choose one of {', '.join(PIPELINES)}")
        if not 0 <= self.aug_p <= 1 or not -1 <= self.ada_target <= 1 or not self.ada_kimg > 0:
            raise ValueError("aug_p must lie in [0, 1], ada_target in [-1, 1], and ada_kimg must be positive")
        if self.aug != "noaug" and self.generator.img_channels not in (1, 3):
            raise ValueError("augmentation takes grey or RGB images: train with aug noaug")
        if self.freeze_d < 0:
            raise ValueError("freeze_d must not be negative")
        once = self.batch if self.batch_gpu is None else self.batch_gpu
        if once < 1 or self.batch % once:
            raise ValueError(f"batch {self.batch} must be a multiple of batch_gpu {once}")
        group = min(self.discriminator.mbstd_group_size or once, once)
        if once % group:
            name = "batch" if self.batch_gpu is None else "batch_gpu"
            raise ValueError(f"{name} {once} must be a multiple of the minibatch-std group {group}")

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TrainConfig:
        nested = {
            "generator": GeneratorConfig.from_dict(data["generator"]),
            "discriminator": DiscriminatorConfig.from_dict(data["discriminator"]),
        }
        return cls(**{**data, **nested})


@dataclass(frozen=True)
class Preset:
    """One row of the table below. A value of None is derived from resolution and number of GPUs as in `auto`."""

    kimg: float
    batch: int | None
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
    r1_per_pixel: float | None = None  # R1 weight over the number of pixels, instead of r1_gamma


CONFIGS: dict[str, Any] = {"run": TrainConfig, "generator": GeneratorConfig, "discriminator": DiscriminatorConfig}

#: Fields that follow from the images and labels.
FROM_DATA = ("resolution", "c_dim", "img_channels")

#: What the presets for a few CPU cores share. bfloat16, whose range is float32's, needs no clamp. R1 in proportion to the number
#: of pixels, 1.6 at 64 px, trained the shipped checkpoint from 16 px up; at 64 px, weights of 0.1 and 0.3 had let the
#: discriminator win: the mean sign of D(real) stayed near 0.9.
CPU: dict[str, Any] = {
    "pl_weight": 0.1,
    "conv_clamp": None,
    "half": "bf16",
    "aug": "noaug",
    "r1_per_pixel": 1.6 / 64**2,
}

#: The configurations of StyleGAN2-ADA (Karras et al. 2020b, table 6 and the official code), and two for a few CPU cores.
PRESETS: dict[str, Preset] = {
    #                       kimg  batch mbstd  base    lr     gamma ema  ramp mapping
    "auto": Preset(25_000, None, None, None, None, None, None, 0.05, 2),
    "stylegan2": Preset(25_000, 32, 4, 32768, 0.002, 10.0, 10, None, 8),
    "paper256": Preset(25_000, 64, 8, 16384, 0.0025, 1.0, 20, None, 8),
    "paper512": Preset(25_000, 64, 8, 32768, 0.0025, 0.5, 20, None, 8),
    "paper1024": Preset(25_000, 32, 4, 32768, 0.002, 2.0, 10, None, 8),
    "cifar": Preset(
        100_000,
        64,
        32,
        32768,
        0.0025,
        0.01,
        500,
        0.05,
        2,
        pl_weight=0.0,
        mixing_prob=0.0,
        architecture="orig",
        num_fp16_res=0,
        conv_clamp=None,
    ),
    "cpu": Preset(100, 16, 4, 2048, 0.0025, None, 5, 0.05, 2, channel_max=128, **CPU),
    "cpu-small": Preset(100, 16, 4, 1024, 0.0025, None, 5, 0.05, 2, channel_max=64, **CPU),
}


def resolve(
    preset: str, resolution: int, c_dim: int = 0, img_channels: int = 3, gpus: int = 1, **overrides: Any
) -> TrainConfig:
    """The configuration of a preset at a resolution; `overrides` replace fields of `TrainConfig` or of both networks, and
    of one network as `generator.NAME` or `discriminator.NAME`.

    Raises ValueError on an unknown preset or field, or a value out of range.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}")
    p = PRESETS[preset]
    batch = overrides.pop("batch", None)
    if batch is None:
        batch = p.batch or max(min(gpus * min(4096 // resolution, 32), 64), gpus)
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}")
    base = p.channel_base or (32768 if resolution >= 512 else 16384)
    network: dict[str, Any] = {
        "resolution": resolution,
        "c_dim": c_dim,
        "img_channels": img_channels,
        "channel_base": base,
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
        "batch_gpu": batch // gpus if gpus > 1 and batch % gpus == 0 else None,
    }
    places = {"generator": generator, "discriminator": discriminator, "run": run}
    for name, value in sorted(overrides.items(), key=lambda item: "." in item[0]):  # one network's own goes before both's
        for where in _places(name):
            places[where][name.rpartition(".")[2]] = value
    return TrainConfig(GeneratorConfig(**generator), DiscriminatorConfig(**discriminator), **run)


def differing(cfg: TrainConfig, overrides: dict[str, Any]) -> list[str]:
    """Those names of `resolve`'s overrides that do not stand in `cfg` with the same value, sorted."""
    parts = {"run": cfg, "generator": cfg.generator, "discriminator": cfg.discriminator}
    return sorted(
        name
        for name, value in overrides.items()
        if any(getattr(parts[where], name.rpartition(".")[2]) != value for where in _places(name))
    )


def parse_setting(name: str, text: str) -> Any:
    """A value of `resolve`'s overrides from its text, `none` for None and numbers of a tuple between commas.

    Raises ValueError for an unknown name, one that the data decides, or a value of another type.
    """
    field = name.rpartition(".")[2]
    hint = get_type_hints(CONFIGS[_places(name)[0]])[field]
    if field in FROM_DATA:
        raise ValueError(f"{name} is decided by the data")
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if text.lower() == "none" and type(None) in kinds:
        return None
    try:
        if get_origin(hint) is tuple:
            return tuple(float(part) for part in text.split(","))
        return int(text) if int in kinds else float(text) if float in kinds else text
    except ValueError:
        raise ValueError(f"{name} cannot be {text!r}") from None


def _places(name: str) -> list[str]:
    """Which of `CONFIGS` a setting `NAME`, `generator.NAME` or `discriminator.NAME` is a field of. ValueError where none."""
    network, _, field = name.rpartition(".")
    chosen = list(CONFIGS) if not network else [network] if network in ("generator", "discriminator") else []
    places = [where for where in chosen if field in {f.name for f in dataclasses.fields(CONFIGS[where])} - set(CONFIGS)]
    if not places:
        raise ValueError(f"unknown training option {name!r}")
    return places


def _r1_gamma(p: Preset, resolution: int, batch: int) -> float:
    if p.r1_gamma is not None:
        return p.r1_gamma
    return (0.0002 / batch if p.r1_per_pixel is None else p.r1_per_pixel) * resolution**2
