"""StyleGAN1's hyperparameters and its list of layers, as plain data without torch.

The PyTorch network, the checkpoint reader and the exporter all build from `GeneratorConfig.layers()`.

Paper: Karras et al. 2018, "A Style-Based Generator Architecture for Generative Adversarial Networks", sections 2 and 3.2
and appendices B and C.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from stylert.models.network_config import SHARED_RANGES, BaseGeneratorConfig, require

#: Decay per step of the running average of w.
W_AVG_BETA = 0.995

#: Added to the variance of a channel before its root is taken.
INSTANCE_NORM_EPS = 1e-8

#: Taps of the low-pass filter after upsampling, on each axis. The 2-D filter is their outer product, with unit sum.
BLUR_TAPS = (1.0, 2.0, 1.0)

#: Least and greatest value of every number in a configuration.
RANGES = SHARED_RANGES | {"resolution": (8, 4096), "channel_decay": (0, 16), "norm_eps": (1e-12, 1)}


@dataclass(frozen=True)
class LayerSpec:
    """One layer of the synthesis network.

    A layer of kind "const" or "conv" makes a signal, adds noise and a bias, activates it, and normalises and styles it
    (AdaIN). A "const" is learned, and a "conv" is a 3x3 convolution, after which an upsampling layer blurs. The last layer
    is torgb, a 1x1 convolution alone.

    Attributes:
        name: Such as "b8.conv0". The layer's tensors begin with "synthesis.b8.conv0.".
        kind: See above.
        resolution: Height and width of the output in pixels.
        in_channels: Channels of the input. Those of the output for the constant.
        out_channels: Channels of the output.
        kernel: Height and width of the kernel, 0 for the constant.
        up: 2 where the layer doubles the resolution, else 1.
        ws_index: Index, among the `num_ws` latents, of the one that styles this layer. -1 for torgb, which has no style.
    """

    name: str
    kind: Literal["const", "conv", "torgb"]
    resolution: int
    in_channels: int
    out_channels: int
    kernel: int
    up: int
    ws_index: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates per image. An upsampling layer counts as a transposed convolution of 4x4 taps on its input."""
        taps = (self.kernel + self.up - 1) ** 2 if self.kernel else 0
        return self.in_channels * self.out_channels * taps * (self.resolution // self.up) ** 2


@dataclass(frozen=True)
class GeneratorConfig(BaseGeneratorConfig):
    """Hyperparameters of the generator. The defaults are those of the paper.

    Attributes:
        resolution: Height and width of the image in pixels, a power of two from 8 to 4096.
        z_dim: Width of the random input z.
        c_dim: Number of classes, 0 without labels.
        w_dim: Width of the latents w.
        img_channels: Channels of the image, 3 for RGB.
        channel_base: A layer of R px has `channel_base / 2 / (R / 2) ** channel_decay` channels, at most `channel_max`.
        channel_max: See `channel_base`.
        channel_decay: See `channel_base`. With 1, channels halve where the resolution doubles.
        mapping_layers: Fully connected layers of the mapping network.
        w_avg_beta: Decay of the running average of w, from 0 to 1.
        norm_eps: Added to the variances of the instance norm.
        bias_before_blur: Whether an upsampling layer adds its bias in front of its blur, which then lowers it at the border.
    """

    network: ClassVar[str] = "stylegan1"
    title: ClassVar[str] = "StyleGAN1"
    ranges: ClassVar[dict[str, tuple[float, float]]] = RANGES

    resolution: int
    z_dim: int = 512
    c_dim: int = 0
    w_dim: int = 512
    img_channels: int = 3
    channel_base: int = 16384
    channel_max: int = 512
    channel_decay: float = 1.0
    mapping_layers: int = 8
    w_avg_beta: float = W_AVG_BETA
    norm_eps: float = INSTANCE_NORM_EPS
    bias_before_blur: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.channels(self.resolution) >= 1, "channel_base leaves no channels at the resolution of the image")

    @property
    def form(self) -> str:
        """The way in which a style acts."""
        return "AdaIN"

    @property
    def block_resolutions(self) -> tuple[int, ...]:
        """4, 8, ... up to the resolution of the image."""
        return tuple(2**i for i in range(2, int(math.log2(self.resolution)) + 1))

    @property
    def num_ws(self) -> int:
        """Latents of the synthesis network: two for each resolution."""
        return 2 * len(self.block_resolutions)

    def channels(self, resolution: int) -> int:
        """Channels of the activations at this resolution."""
        return min(int(self.channel_base / 2 / (resolution / 2) ** self.channel_decay), self.channel_max)

    def layers(self) -> list[LayerSpec]:
        """Every layer in the order in which the image meets it: two for each resolution, and torgb."""
        first = self.channels(4)
        layers = [
            LayerSpec("b4.input", "const", 4, first, first, kernel=0, up=1, ws_index=0),
            LayerSpec("b4.conv1", "conv", 4, first, first, kernel=3, up=1, ws_index=1),
        ]
        for res in self.block_resolutions[1:]:
            inner, outer, w = self.channels(res // 2), self.channels(res), len(layers)
            layers.append(LayerSpec(f"b{res}.conv0", "conv", res, inner, outer, kernel=3, up=2, ws_index=w))
            layers.append(LayerSpec(f"b{res}.conv1", "conv", res, outer, outer, kernel=3, up=1, ws_index=w + 1))
        last, channels = self.resolution, self.channels(self.resolution)
        layers.append(LayerSpec(f"b{last}.torgb", "torgb", last, channels, self.img_channels, kernel=1, up=1, ws_index=-1))
        return layers

    def macs(self) -> int:
        """Multiply-accumulates of all synthesis convolutions per image, without blurs."""
        return sum(layer.macs for layer in self.layers())
