"""StyleGAN2's hyperparameters and its list of layers, as plain data without torch.

`GeneratorConfig.layers()` lists every modulated layer with its name and shape. The PyTorch networks, the checkpoint
reader and the exporter all build from this list, so they cannot disagree.

Papers: Karras et al. 2018 (StyleGAN), 2020a (StyleGAN2) and 2020b (StyleGAN2-ADA).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from stylert.core.images.channels import Channel, check_channels_of_image
from stylert.models.network_config import (
    DEFAULT_NETWORK,
    MAX_WIDTH,
    SHARED_RANGES,
    BaseGeneratorConfig,
    NetworkConfig,
    is_finite,
    require,
)

#: Learning rate of the mapping network's layers relative to all others (Karras et al. 2018, appendix C).
MAPPING_LR_MULTIPLIER = 0.01

#: Decay per step of the running average of w, which truncation moves toward.
W_AVG_BETA = 0.995

#: Added to a mean square before its root is taken, so that a row of zeros stays finite when it is normalised.
NORM_EPS = 1e-8

#: Gain of each branch of a residual block: the sum of two branches keeps the variance (Karras et al. 2020a, appendix B).
RESNET_GAIN = 0.5**0.5

#: Taps of the FIR filter of every resampling. The 2-D filter is their outer product, normalised to unit sum.
FIR_TAPS = (1.0, 3.0, 3.0, 1.0)
#: Most taps of a filter. Its buffer in a state dict has their square.
MAX_TAPS = 64

#: Least and greatest value of every number in a configuration.
RANGES = SHARED_RANGES | {
    "mbstd_group_size": (1, MAX_WIDTH),
    "mbstd_num_channels": (0, MAX_WIDTH),
    "const_height": (1, 64),
    "const_width": (1, 64),
}

#: Sides of the learned constant in every published network, and so the name of its block, `b4`.
CONST_SIDE = 4
#: Greatest height and width of an image.
MAX_SIDE = 4096
#: Least side of the learned constant of an image that is not square.
LEAST_CONST_SIDE = 3


@dataclass(frozen=True)
class LayerSpec:
    """One modulated layer of the synthesis network: a 3x3 convolution, or the 1x1 convolution to RGB."""

    name: str  # such as "b8.conv0" or "b8.torgb"; the layer's tensors begin with "synthesis.b8.conv0."
    kind: Literal["conv", "torgb"]
    resolution: int  # of the block, which is the side of its output in a square network
    in_channels: int
    out_channels: int
    kernel: int
    up: int  # 2 where the layer doubles the resolution, else 1
    ws_index: int  # index, among the num_ws latents, of the one that styles this layer
    height: int  # of the output, in pixels
    width: int

    @property
    def name_in_block(self) -> str:
        """The layer's attribute in its block: `conv0`, `conv1` or `torgb`."""
        return self.name.split(".")[1]

    @property
    def macs(self) -> int:
        """Multiply-accumulates per image. A transposed convolution counts at its input size."""
        return self.in_channels * self.out_channels * self.kernel**2 * (self.height // self.up) * (self.width // self.up)


class Stylegan2Config(NetworkConfig):
    """The part of a configuration that generator and discriminator share."""

    network = DEFAULT_NETWORK
    ranges = RANGES

    resample_filter: tuple[float, ...]
    const_height: int
    const_width: int

    def __post_init__(self) -> None:
        require(len(self.resample_filter) <= MAX_TAPS, f"resample_filter has more than {MAX_TAPS} taps")
        for tap in self.resample_filter:
            require(is_finite(tap), "resample_filter must hold finite numbers")
        object.__setattr__(self, "resample_filter", tuple(float(t) for t in self.resample_filter))
        super().__post_init__()
        require(self.channel_base >= self.resolution, "channel_base leaves no channels at the resolution of the image")
        has_sum = is_finite(sum(self.resample_filter)) and sum(self.resample_filter) != 0
        require(has_sum, "resample_filter needs taps with a finite sum other than zero")
        require(max(self.height, self.width) <= MAX_SIDE, f"an image of {self.size_text} is larger than {MAX_SIDE} px")

    def to_dict(self) -> dict[str, Any]:
        """As `NetworkConfig.to_dict`. A square network has no constant to describe, and its files stay as they were."""
        fields = super().to_dict()
        if (self.const_height, self.const_width) == (CONST_SIDE, CONST_SIDE):
            del fields["const_height"], fields["const_width"]
        return fields

    def size_at(self, resolution: int) -> tuple[int, int]:
        """Height and width in pixels of a block's activations."""
        return block_size(resolution, self.const_height, self.const_width)

    @property
    def height(self) -> int:
        """Height of the image in pixels."""
        return self.size_at(self.resolution)[0]

    @property
    def width(self) -> int:
        """Width of the image in pixels."""
        return self.size_at(self.resolution)[1]

    def channels(self, resolution: int) -> int:
        """Channels of the activations at this resolution."""
        return min(self.channel_base // resolution, self.channel_max)

    def is_fp16(self, resolution: int) -> bool:
        """Whether the block at this resolution may run in half precision. The 4 px block never does."""
        lowest = max(self.resolution * 2 // 2**self.num_fp16_res, 8)
        return self.num_fp16_res > 0 and resolution >= lowest


@dataclass(frozen=True)
class GeneratorConfig(Stylegan2Config, BaseGeneratorConfig):
    """Hyperparameters of the generator. The defaults are StyleGAN2's configuration F.

    Attributes:
        resolution: Height and width of a square image in pixels, a power of two from 4 to 4096. In general, the image is
            `resolution / 4` times as high and wide as the constant.
        z_dim: Width of the random input z.
        c_dim: Number of classes, 0 without labels.
        w_dim: Width of the latents w.
        img_channels: Channels of the image: 1 for grey, 3 for RGB, one more with alpha.
        channel_base: A layer has `channel_base // resolution` channels, at most `channel_max`.
        channel_max: See `channel_base`.
        mapping_layers: Fully connected layers of the mapping network.
        w_avg_beta: Decay of the running average of w, from 0 to 1.
        num_fp16_res: Number of highest resolutions that may run in half precision.
        conv_clamp: Bound of the absolute value of every convolution's output, or None.
        resample_filter: Taps of the FIR filter.
        architecture: "skip" sums an RGB image over all resolutions. "resnet" and "orig" make the image at the last
            resolution alone; "resnet" adds a shortcut around each block (Karras et al. 2020a, figure 7).
        image_channels: The channels of images of measured values, with names and units; None for pictures.
        const_height: Height of the learned constant in pixels.
        const_width: Its width.
    """

    title: ClassVar[str] = "StyleGAN2"

    resolution: int
    z_dim: int = 512
    c_dim: int = 0
    w_dim: int = 512
    img_channels: int = 3
    channel_base: int = 32768
    channel_max: int = 512
    mapping_layers: int = 8
    w_avg_beta: float = W_AVG_BETA
    num_fp16_res: int = 0
    conv_clamp: float | None = None
    resample_filter: tuple[float, ...] = FIR_TAPS
    architecture: str = "skip"
    image_channels: tuple[Channel, ...] | None = None
    const_height: int = CONST_SIDE
    const_width: int = CONST_SIDE

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.architecture in ("skip", "resnet", "orig"), "architecture must be skip, resnet or orig")
        if self.image_channels is not None:
            check_channels_of_image(self.image_channels, self.img_channels)

    def to_dict(self) -> dict[str, Any]:
        """As `Stylegan2Config.to_dict`. Files of pictures have no channels to describe, and stay as they were."""
        fields = super().to_dict()
        if self.image_channels is None:
            del fields["image_channels"]
        return fields

    @property
    def block_resolutions(self) -> tuple[int, ...]:
        """4, 8, ... up to the resolution of the image."""
        return _resolutions(4, self.resolution)

    @property
    def form(self) -> str:
        """The architecture."""
        return self.architecture

    @property
    def num_ws(self) -> int:
        """Latents of the synthesis network: one for each 3x3 convolution and one for the last torgb."""
        return 2 * int(math.log2(self.resolution)) - 2

    def layers(self) -> list[LayerSpec]:
        """Every modulated layer in the order in which the image meets it: conv0, conv1, torgb of each block, from 4 px up.

        The 4 px block has no conv0. Only the skip architecture has a torgb in every block; the others have the last one.
        A torgb reads the same latent as the next block's first convolution.
        """
        layers: list[LayerSpec] = []
        w = 0  # index of the next latent
        for res in self.block_resolutions:
            channels, size = self.channels(res), self.size_at(res)
            if res > 4:
                layers.append(LayerSpec(f"b{res}.conv0", "conv", res, self.channels(res // 2), channels, 3, 2, w, *size))
                w += 1
            layers.append(LayerSpec(f"b{res}.conv1", "conv", res, channels, channels, 3, 1, w, *size))
            w += 1
            if self.architecture == "skip" or res == self.resolution:
                layers.append(LayerSpec(f"b{res}.torgb", "torgb", res, channels, self.img_channels, 1, 1, w, *size))
        return layers

    def shortcuts(self) -> dict[int, tuple[int, int]]:
        """Input and output channels of the 1x1 shortcut around each block, by resolution. Empty but for "resnet"."""
        if self.architecture != "resnet":
            return {}
        return {res: (self.channels(res // 2), self.channels(res)) for res in self.block_resolutions if res > 4}

    def macs(self) -> int:
        """Multiply-accumulates of all synthesis convolutions per image."""
        modulated = sum(layer.macs for layer in self.layers())
        shortcuts = sum(inner * outer * math.prod(self.size_at(res // 2)) for res, (inner, outer) in self.shortcuts().items())
        return modulated + shortcuts


@dataclass(frozen=True)
class DiscriminatorConfig(Stylegan2Config):
    """Hyperparameters of the discriminator. Fields with the names of `GeneratorConfig` mean the same.

    Attributes:
        resolution: As of the generator, from 8 on.
        architecture: "resnet" is StyleGAN2's choice; "skip" and "orig" are the other two of Karras et al. 2020a, figure 7.
        mapping_layers: Fully connected layers of the label mapping. Used only with labels.
        mbstd_group_size: Samples per group of the minibatch standard deviation; None groups the whole batch.
        mbstd_num_channels: Feature maps that the minibatch standard deviation adds; 0 leaves it out.
    """

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
    resample_filter: tuple[float, ...] = FIR_TAPS
    const_height: int = CONST_SIDE
    const_width: int = CONST_SIDE

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.resolution >= 8, "the resolution of a discriminator must be at least 8")
        require(self.architecture in ("resnet", "skip", "orig"), "architecture must be resnet, skip or orig")

    @property
    def block_resolutions(self) -> tuple[int, ...]:
        """From the resolution of the image down to 8. The 4 px block is the epilogue."""
        return _resolutions(8, self.resolution)[::-1]

    @property
    def cmap_dim(self) -> int:
        """Width of the mapped label, 0 without labels."""
        return self.channels(4) if self.c_dim else 0


def block_size(resolution: int, const_height: int, const_width: int) -> tuple[int, int]:
    """Height and width in pixels at a block, of a network with this constant."""
    return const_height * resolution // CONST_SIDE, const_width * resolution // CONST_SIDE


def network_size(height: int, width: int) -> tuple[int, int, int]:
    """The network for images of a size: the one with the smallest constant, with sides from `LEAST_CONST_SIDE` on.

    Args:
        height: Height of the images in pixels.
        width: Their width.

    Returns:
        `resolution`, `const_height` and `const_width`.

    Raises:
        ValueError: No network has images of this size. The message names a size near it that one has.
    """
    doublings, greatest = 0, RANGES["const_height"][1]
    while height % 2 ** (doublings + 1) == 0 == width % 2 ** (doublings + 1) and (
        min(height, width) >= LEAST_CONST_SIDE * 2 ** (doublings + 1)
    ):
        doublings += 1
    sides = height >> doublings, width >> doublings
    if min(sides) < LEAST_CONST_SIDE or max(sides) > greatest or max(height, width) > MAX_SIDE:
        near_height, near_width = _near_size(height, width)
        raise ValueError(
            f"no network has images of {width}x{height}: both sides are at most {MAX_SIDE}, and one power of two times whole "
            f"numbers from {LEAST_CONST_SIDE} to {greatest}, such as {near_width}x{near_height}"
        )
    return CONST_SIDE << doublings, *sides


def _near_size(height: int, width: int) -> tuple[int, int]:
    """A size near this one that a network has."""
    sides = [min(max(side, 1), MAX_SIDE) for side in (height, width)]
    greatest = RANGES["const_height"][1]
    step = 2 ** max(math.ceil(math.log2(max(sides) / greatest)), 0)
    near = [max(side // step, LEAST_CONST_SIDE) * step for side in sides]
    return near[0], near[1]


def _resolutions(first: int, last: int) -> tuple[int, ...]:
    """The powers of two from `first` to `last`."""
    return tuple(2**i for i in range(int(math.log2(first)), int(math.log2(last)) + 1))
