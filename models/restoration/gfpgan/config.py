"""The sizes of a GFP-GAN network, and name and shape of its tensors. The names are those of the public files.

    photograph ─▶ U-Net ─▶ latents ─────────────────▶ StyleGAN2 ─▶ image
                    └────▶ scale and shift of features ───┘

The U-Net halves the photograph down to 4 px and doubles it again. At each resolution from 8 px on, its features give a scale and
a shift for every pixel of the decoder's features (spatial feature transform, section 3.3 of the paper).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from stylert.models.restoration.sizes import check_sizes, resolutions

#: Numbers of a pixel.
RGB = 3
#: The beginning of the names of the decoder's tensors.
DECODER = "stylegan_decoder"


@dataclass(frozen=True)
class DecoderLayer:
    """A modulated convolution of the decoder.

    Attributes:
        name: Its name under `stylegan_decoder.`.
        in_channels: Channels that it reads.
        out_channels: Channels that it writes.
        resolution: Side of its result, in pixels.
        ws_index: Number of its latent.
        up: 2 where it doubles the side, else 1.
    """

    name: str
    in_channels: int
    out_channels: int
    resolution: int
    ws_index: int
    up: int = 1


@dataclass(frozen=True)
class GfpganConfig:
    """The sizes of a network.

    Attributes:
        resolution: Side of photograph and image, in pixels.
        unet_channels: Channels of the U-Net at 4 px, 8 px and so on.
        decoder_channels: The same of the decoder.
        w_dim: Width of a latent.
        separate_latents: Whether each layer has a latent of its own. Otherwise all share one.
        half_transform: Whether scale and shift change only the second half of the channels.
    """

    network: ClassVar[str] = "gfpgan"
    title: ClassVar[str] = "GFP-GAN"

    resolution: int
    unet_channels: tuple[int, ...]
    decoder_channels: tuple[int, ...]
    w_dim: int = 512
    separate_latents: bool = True
    half_transform: bool = True

    def __post_init__(self) -> None:
        check_sizes(self.resolution, self.w_dim, self.unet_channels, self.decoder_channels)

    @property
    def num_ws(self) -> int:
        """Latents of the decoder."""
        return 2 * len(self.resolutions)

    @property
    def resolutions(self) -> list[int]:
        """4, 8, ... up to `resolution`."""
        return resolutions(self.resolution)

    def transformed(self, level: int) -> int:
        """Channels that scale and shift change, at level 1 (8 px) and above: the last ones of the decoder's."""
        channels = self.decoder_channels[level]
        return channels - channels // 2 if self.half_transform else channels

    def layers(self) -> Iterator[DecoderLayer]:
        """The modulated 3x3 convolutions of the decoder, in order."""
        channels = self.decoder_channels
        yield DecoderLayer("style_conv1", channels[0], channels[0], 4, 0)
        for level, resolution in enumerate(self.resolutions[1:], 1):
            first = 2 * level - 2
            yield DecoderLayer(f"style_convs.{first}", channels[level - 1], channels[level], resolution, first + 1, up=2)
            yield DecoderLayer(f"style_convs.{first + 1}", channels[level], channels[level], resolution, first + 2)

    def rgb_layers(self) -> Iterator[DecoderLayer]:
        """The 1x1 convolutions of the decoder to RGB, in order."""
        for level, resolution in enumerate(self.resolutions):
            name = f"to_rgbs.{level - 1}" if level else "to_rgb1"
            yield DecoderLayer(name, self.decoder_channels[level], RGB, resolution, 2 * level + 1)

    @property
    def img_channels(self) -> int:
        """Channels of photograph and image."""
        return RGB

    def to_dict(self) -> dict[str, Any]:
        """Every field by name, ready for JSON, and the network's name."""
        return {"network": self.network, **asdict(self)}


def tensor_shapes(cfg: GfpganConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that an image depends on."""
    unet, levels = cfg.unet_channels, len(cfg.resolutions)
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, inputs: int, outputs: int, kernel: int = 3, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs, kernel, kernel)
        if bias:
            shapes[f"{name}.bias"] = (outputs,)

    def residual(name: str, inputs: int, outputs: int) -> None:
        conv(f"{name}.conv1", inputs, inputs)
        conv(f"{name}.conv2", inputs, outputs)
        conv(f"{name}.skip", inputs, outputs, 1, bias=False)

    conv("conv_body_first", RGB, unet[-1], 1)
    for i, level in enumerate(range(levels - 1, 0, -1)):
        residual(f"conv_body_down.{i}", unet[level], unet[level - 1])
    conv("final_conv", unet[0], unet[0])
    for i, level in enumerate(range(1, levels)):
        residual(f"conv_body_up.{i}", unet[level - 1], unet[level])
        for part in ("condition_scale", "condition_shift"):
            conv(f"{part}.{i}.0", unet[level], unet[level])
            conv(f"{part}.{i}.2", unet[level], cfg.transformed(level))
    latents = cfg.num_ws if cfg.separate_latents else 1
    shapes["final_linear.weight"] = (latents * cfg.w_dim, unet[0] * 16)
    shapes["final_linear.bias"] = (latents * cfg.w_dim,)
    shapes[f"{DECODER}.constant_input.weight"] = (1, cfg.decoder_channels[0], 4, 4)
    for i, layer in enumerate(cfg.layers()):
        shapes |= _modulated(layer, cfg.w_dim, 3)
        shapes[f"{DECODER}.{layer.name}.weight"] = (1,)
        shapes[f"{DECODER}.noises.noise{i}"] = (1, 1, layer.resolution, layer.resolution)
    for layer in cfg.rgb_layers():
        shapes |= _modulated(layer, cfg.w_dim, 1)
    return shapes


def _modulated(layer: DecoderLayer, w_dim: int, kernel: int) -> dict[str, tuple[int, ...]]:
    name = f"{DECODER}.{layer.name}"
    return {
        f"{name}.modulated_conv.weight": (1, layer.out_channels, layer.in_channels, kernel, kernel),
        f"{name}.modulated_conv.modulation.weight": (layer.in_channels, w_dim),
        f"{name}.modulated_conv.modulation.bias": (layer.in_channels,),
        f"{name}.bias": (1, layer.out_channels, 1, 1),
    }
