"""What a StyleGAN2 network is made of, as data: the one place where shapes and layer names come from.

The networks (`networks.py`) and the exporter build from these, so that neither can disagree with the other. No torch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

#: Learning rate of the mapping network's layers relative to all others (Karras et al. 2018, appendix C).
MAPPING_LR_MULTIPLIER = 0.01

#: Each branch of a residual block, so that their sum keeps the variance (Karras et al. 2020a, appendix B).
RESNET_GAIN = 0.5**0.5


@dataclass(frozen=True)
class LayerSpec:
    """One modulated layer of the synthesis network, in the order in which the image meets them."""

    name: str  # "b8.conv0", "b8.conv1", "b8.torgb": the prefix of its keys under `synthesis.`
    kind: Literal["conv", "torgb"]
    resolution: int  # of the output, pixels
    in_channels: int
    out_channels: int
    kernel: int
    up: int
    ws_index: int  # which of the num_ws latents styles it

    @property
    def macs(self) -> int:
        """Multiply-accumulates per image; a transposed convolution counts at its input size."""
        return self.in_channels * self.out_channels * self.kernel**2 * (self.resolution // self.up) ** 2


@dataclass(frozen=True)
class GeneratorConfig:
    """Hyperparameters of the generator. Defaults are StyleGAN2's config F at the given resolution.

    `num_fp16_res` highest resolutions run in half precision when the caller allows it; `conv_clamp` bounds what their
    convolutions return. `architecture` (Karras et al. 2020a, figure 7) is "skip", which sums an image over all
    resolutions, or "resnet" or "orig", which make it at the last one only.
    """

    resolution: int
    z_dim: int = 512
    c_dim: int = 0
    w_dim: int = 512
    img_channels: int = 3
    channel_base: int = 32768
    channel_max: int = 512
    mapping_layers: int = 8
    w_avg_beta: float = 0.995
    num_fp16_res: int = 0
    conv_clamp: float | None = None
    resample_filter: tuple[float, ...] = (1, 3, 3, 1)
    architecture: str = "skip"

    def __post_init__(self) -> None:
        object.__setattr__(self, "resample_filter", tuple(float(t) for t in self.resample_filter))
        _check_common(self)
        _check(self.z_dim >= 1 and self.w_dim >= 1, "z_dim and w_dim must be at least 1")
        _check(0 <= self.w_avg_beta <= 1, "w_avg_beta must lie in [0, 1]")
        _check(self.architecture in ("skip", "resnet", "orig"), "architecture must be skip, resnet or orig")

    @property
    def block_resolutions(self) -> tuple[int, ...]:
        """4, 8, ... up to the resolution of the image."""
        return _block_resolutions(self.resolution)

    @property
    def num_ws(self) -> int:
        """Latents that the synthesis network takes: 2 log2(resolution) - 2."""
        return 2 * int(math.log2(self.resolution)) - 2

    def channels(self, resolution: int) -> int:
        return min(self.channel_base // resolution, self.channel_max)

    def is_fp16(self, resolution: int) -> bool:
        """Whether the block at this resolution may run in half precision."""
        return _is_fp16(self, resolution)

    def layers(self) -> list[LayerSpec]:
        """Every modulated layer, conv0, conv1, torgb, from 4 px up. A block's torgb reads the next block's first w.

        Only the skip architecture has a torgb in every block; the others have the last one.
        """
        specs: list[LayerSpec] = []
        w = 0
        for res in self.block_resolutions:
            out = self.channels(res)
            if res > 4:
                specs.append(LayerSpec(f"b{res}.conv0", "conv", res, self.channels(res // 2), out, 3, 2, w))
                w += 1
            specs.append(LayerSpec(f"b{res}.conv1", "conv", res, out, out, 3, 1, w))
            w += 1
            if self.architecture == "skip" or res == self.resolution:
                specs.append(LayerSpec(f"b{res}.torgb", "torgb", res, out, self.img_channels, 1, 1, w))
        return specs

    def shortcuts(self) -> dict[int, tuple[int, int]]:
        """Input and output channels of the 1x1 shortcut around each block, by resolution; only "resnet" has them."""
        if self.architecture != "resnet":
            return {}
        return {res: (self.channels(res // 2), self.channels(res)) for res in self.block_resolutions if res > 4}

    def macs(self) -> int:
        """Multiply-accumulates of the synthesis convolutions per image."""
        modulated = sum(s.macs for s in self.layers())
        return modulated + sum(i * o * (res // 2) ** 2 for res, (i, o) in self.shortcuts().items())

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> GeneratorConfig:
        """From `to_dict` or JSON; ValueError names the field that is unknown, missing or wrong."""
        return _from_dict(cls, data)


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Hyperparameters of the discriminator. `architecture` is "resnet" (StyleGAN2's), "skip" or "orig"."""

    resolution: int
    c_dim: int = 0
    img_channels: int = 3
    architecture: str = "resnet"
    channel_base: int = 32768
    channel_max: int = 512
    mapping_layers: int = 8
    mbstd_group_size: int | None = 4
    mbstd_num_channels: int = 1
    num_fp16_res: int = 0
    conv_clamp: float | None = None
    resample_filter: tuple[float, ...] = (1, 3, 3, 1)

    def __post_init__(self) -> None:
        object.__setattr__(self, "resample_filter", tuple(float(t) for t in self.resample_filter))
        _check_common(self)
        _check(self.resolution >= 8, "the resolution of a discriminator must be at least 8")
        _check(self.architecture in ("resnet", "skip", "orig"), "architecture must be resnet, skip or orig")
        _check(self.mbstd_num_channels >= 0, "mbstd_num_channels must not be negative")

    @property
    def block_resolutions(self) -> tuple[int, ...]:
        """From the image's resolution down to 8; the 4 px block is the epilogue."""
        return tuple(r for r in reversed(_block_resolutions(self.resolution)) if r > 4)

    @property
    def cmap_dim(self) -> int:
        """Width of the mapped label, 0 without labels."""
        return self.channels(4) if self.c_dim else 0

    def channels(self, resolution: int) -> int:
        return min(self.channel_base // resolution, self.channel_max)

    def is_fp16(self, resolution: int) -> bool:
        return _is_fp16(self, resolution)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DiscriminatorConfig:
        return _from_dict(cls, data)


def _block_resolutions(resolution: int) -> tuple[int, ...]:
    return tuple(2**i for i in range(2, int(math.log2(resolution)) + 1))


def _is_fp16(cfg: GeneratorConfig | DiscriminatorConfig, resolution: int) -> bool:
    lowest = max(cfg.resolution * 2 // 2**cfg.num_fp16_res, 8)
    return cfg.num_fp16_res > 0 and resolution >= lowest


def _check_common(cfg: GeneratorConfig | DiscriminatorConfig) -> None:
    for f in dataclasses.fields(cfg):
        value = getattr(cfg, f.name)
        if f.type == "int" and (isinstance(value, bool) or not isinstance(value, int)):
            raise ValueError(f"{f.name} must be a whole number, not {value!r}")
    _check(
        4 <= cfg.resolution <= 4096 and cfg.resolution & (cfg.resolution - 1) == 0,
        "resolution must be a power of two from 4 to 4096",
    )
    _check(cfg.channel_base // cfg.resolution >= 1 and cfg.channel_max >= 1, "channel_base and channel_max leave no channels")
    _check(cfg.img_channels >= 1 and cfg.c_dim >= 0, "img_channels must be at least 1 and c_dim at least 0")
    _check(1 <= cfg.mapping_layers <= 64, "mapping_layers must lie in 1 to 64")
    _check(cfg.num_fp16_res >= 0, "num_fp16_res must not be negative")
    _check(cfg.conv_clamp is None or cfg.conv_clamp > 0, "conv_clamp must be positive or null")
    _check(len(cfg.resample_filter) >= 1 and sum(cfg.resample_filter) != 0, "resample_filter needs taps with a sum")


def _check(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(message)


def _from_dict(cls: type[Any], data: Mapping[str, Any]) -> Any:
    known = {f.name for f in dataclasses.fields(cls)}
    unknown = sorted(set(data) - known)
    if unknown:
        raise ValueError(f"unknown field {unknown[0]!r}")
    if "resolution" not in data:
        raise ValueError("resolution is missing")
    try:
        return cls(**data)
    except (TypeError, OverflowError) as e:
        raise ValueError(str(e)) from None
