"""The sizes of a GPEN network, and name and shape of its tensors. The names are those of the public files.

    photograph ─▶ encoder ─▶ w ───────────▶ StyleGAN2 ─▶ image
                     └─────▶ features in place of noise ─┘

The encoder halves the photograph down to 4 px. Its features at each resolution are the noise of the decoder's layers there. The noise
is not added to the features of the decoder: it is concatenated with them (section 3.1 of the paper).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from stylert.models.restoration.gfpgan.config import RGB, DecoderLayer
from stylert.models.restoration.sizes import check_sizes, resolutions

#: The beginning of the names of the decoder's tensors.
DECODER = "generator"
#: The most fully connected layers.
MAX_MAPPING_LAYERS = 64


@dataclass(frozen=True)
class GpenConfig:
    """The sizes of a network.

    Attributes:
        resolution: Side of photograph and image, in pixels.
        channels: Channels of encoder and decoder at 4 px, 8 px and so on. The decoder's layers put out twice as many: the second
            half are features of the encoder.
        w_dim: Width of a latent.
        mapping_layers: Fully connected layers from the encoder's code to w.
    """

    network: ClassVar[str] = "gpen"
    title: ClassVar[str] = "GPEN"

    resolution: int
    channels: tuple[int, ...]
    w_dim: int = 512
    mapping_layers: int = 8

    def __post_init__(self) -> None:
        check_sizes(self.resolution, self.w_dim, self.channels)
        if not 0 <= self.mapping_layers <= MAX_MAPPING_LAYERS:
            raise ValueError(f"a mapping network has 0 to {MAX_MAPPING_LAYERS} layers, not {self.mapping_layers}")

    @property
    def resolutions(self) -> list[int]:
        """4, 8, ... up to `resolution`."""
        return resolutions(self.resolution)

    def layers(self) -> Iterator[DecoderLayer]:
        """The modulated 3x3 convolutions of the decoder, in order. `out_channels` is without the encoder's features."""
        channels = self.channels
        yield DecoderLayer("conv1", channels[0], channels[0], 4, 0)
        for level, resolution in enumerate(self.resolutions[1:], 1):
            first = 2 * level - 2
            yield DecoderLayer(f"convs.{first}", 2 * channels[level - 1], channels[level], resolution, first + 1, up=2)
            yield DecoderLayer(f"convs.{first + 1}", 2 * channels[level], channels[level], resolution, first + 2)

    def rgb_layers(self) -> Iterator[DecoderLayer]:
        """The 1x1 convolutions of the decoder to RGB, in order."""
        for level, resolution in enumerate(self.resolutions):
            name = f"to_rgbs.{level - 1}" if level else "to_rgb1"
            yield DecoderLayer(name, 2 * self.channels[level], RGB, resolution, 2 * level + 1)

    @property
    def img_channels(self) -> int:
        """Channels of photograph and image."""
        return RGB

    def to_dict(self) -> dict[str, Any]:
        """Every field by name, ready for JSON, and the network's name."""
        return {"network": self.network, **asdict(self)}


def tensor_shapes(cfg: GpenConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that an image depends on. FIR filters are not among them: their taps are fixed."""
    channels, w_dim = cfg.channels, cfg.w_dim
    shapes: dict[str, tuple[int, ...]] = {"ecd0.0.0.weight": (channels[-1], RGB, 1, 1), "ecd0.0.1.bias": (channels[-1],)}
    for i, level in enumerate(range(len(channels) - 1, 0, -1), 1):
        shapes[f"ecd{i}.0.1.weight"] = (channels[level - 1], channels[level], 3, 3)
        shapes[f"ecd{i}.0.2.bias"] = (channels[level - 1],)
    shapes |= {"final_linear.0.weight": (w_dim, channels[0] * 16), "final_linear.0.bias": (w_dim,)}
    for i in range(1, cfg.mapping_layers + 1):
        shapes |= {f"{DECODER}.style.{i}.weight": (w_dim, w_dim), f"{DECODER}.style.{i}.bias": (w_dim,)}
    shapes[f"{DECODER}.input.input"] = (1, channels[0], 4, 4)
    for layer in cfg.layers():
        name = f"{DECODER}.{layer.name}"
        shapes |= _modulated(layer, w_dim, 3)
        shapes |= {f"{name}.noise.weight": (1,), f"{name}.activate.bias": (2 * layer.out_channels,)}
    for layer in cfg.rgb_layers():
        shapes |= _modulated(layer, w_dim, 1)
        shapes[f"{DECODER}.{layer.name}.bias"] = (1, RGB, 1, 1)
    return shapes


def _modulated(layer: DecoderLayer, w_dim: int, kernel: int) -> dict[str, tuple[int, ...]]:
    name = f"{DECODER}.{layer.name}.conv"
    return {
        f"{name}.weight": (1, layer.out_channels, layer.in_channels, kernel, kernel),
        f"{name}.modulation.weight": (layer.in_channels, w_dim),
        f"{name}.modulation.bias": (layer.in_channels,),
    }
