"""StyleGAN3's hyperparameters, as plain data without torch.

The PyTorch network, the checkpoint reader and the exporter all build from `GeneratorConfig.layers()`.

Paper: Karras et al. 2021, "Alias-Free Generative Adversarial Networks", section 3.2 and appendices C and D.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from stylert.models.network_config import SHARED_RANGES, BaseGeneratorConfig, require
from stylert.models.stylegan3.layer_list import LayerSpec, layer_list

#: Decay per step of the running average of w.
W_AVG_BETA = 0.998

#: Largest height and width of a layer's canvas, in samples.
MAX_SIZE = 16384
#: Most taps of a filter on one axis.
MAX_TAPS = 512
#: Least and greatest value of every number in a configuration.
RANGES = SHARED_RANGES | {
    "resolution": (8, 4096),
    "num_layers": (2, 64),
    "num_critical": (1, 63),
    "first_cutoff": (1e-3, 2048),
    "first_stopband": (0.5, 1e5),
    "last_stopband_rel": (1, 64),
    "margin_size": (0, 1024),
    "output_scale": (1e-9, 1e9),
    "conv_kernel": (1, 15),
    "filter_size": (1, 16),
    "lrelu_upsampling": (1, 8),
    "magnitude_ema_beta": (0, 1),
}


@dataclass(frozen=True)
class GeneratorConfig(BaseGeneratorConfig):
    """Hyperparameters of the generator. The defaults are those of configuration T; see also `configuration_r`.

    Attributes:
        resolution: Height and width of the image in pixels, a power of two from 8 to 4096.
        z_dim: Width of the random input z.
        c_dim: Number of classes, 0 without labels.
        w_dim: Width of the latents w.
        img_channels: Channels of the image, 3 for RGB.
        channel_base: A layer has `channel_base / (2 cutoff)` channels, rounded, at most `channel_max`.
        channel_max: See `channel_base`.
        mapping_layers: Fully connected layers of the mapping network.
        w_avg_beta: Decay of the running average of w, from 0 to 1.
        num_layers: Layers of the synthesis network without torgb, for every resolution.
        num_critical: Number of layers at the end that are critically sampled.
        first_cutoff: Cutoff of the first layer, f_c,0.
        first_stopband: Stopband of the first layer, f_t,0.
        last_stopband_rel: Stopband of the last layer, f_t,N, relative to its cutoff.
        margin_size: Samples on each side of a canvas beyond the image.
        output_scale: Factor of the image.
        num_fp16_res: Number of highest resolutions that may run in half precision.
        conv_kernel: Height and width of the kernels, odd: 3 in configuration T, 1 in configuration R.
        filter_size: Taps of a filter per sample of its lower rate.
        lrelu_upsampling: Rate of the nonlinearity relative to the higher rate of its layer.
        use_radial_filters: Whether downsampling filters are radially symmetric, but not in critically sampled layers.
        conv_clamp: Bound of the absolute value of the nonlinearity, or None.
        magnitude_ema_beta: Decay of the running average of each layer's input magnitude, in training.
    """

    network: ClassVar[str] = "stylegan3"
    title: ClassVar[str] = "StyleGAN3"
    ranges: ClassVar[dict[str, tuple[float, float]]] = RANGES

    resolution: int
    z_dim: int = 512
    c_dim: int = 0
    w_dim: int = 512
    img_channels: int = 3
    channel_base: int = 32768
    channel_max: int = 512
    mapping_layers: int = 2
    w_avg_beta: float = W_AVG_BETA
    num_layers: int = 14
    num_critical: int = 2
    first_cutoff: float = 2.0
    first_stopband: float = 2.0**2.1
    last_stopband_rel: float = 2.0**0.3
    margin_size: int = 10
    output_scale: float = 0.25
    num_fp16_res: int = 4
    conv_kernel: int = 3
    filter_size: int = 6
    lrelu_upsampling: int = 2
    use_radial_filters: bool = False
    conv_clamp: float | None = 256.0
    magnitude_ema_beta: float = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.lrelu_upsampling & (self.lrelu_upsampling - 1) == 0, "lrelu_upsampling must be a power of two")
        require(self.conv_kernel % 2 == 1, "conv_kernel must be odd")
        require(self.num_critical < self.num_layers, "num_critical must be smaller than num_layers")
        require(self.first_cutoff < self.resolution / 2, "first_cutoff must be smaller than half of the resolution")
        require(self.first_stopband > self.first_cutoff, "first_stopband must be greater than first_cutoff")
        require(self.last_stopband_rel > 1, "last_stopband_rel must be greater than 1")
        for layer in self.layers():
            require(layer.out_channels >= 1, "channel_base leaves no channels at the resolution of the image")
            require(layer.out_size <= MAX_SIZE, f"layer {layer.name} has more than {MAX_SIZE} samples per axis")
            require(max(layer.up_taps, layer.down_taps) <= MAX_TAPS, f"layer {layer.name} has more than {MAX_TAPS} taps")

    @classmethod
    def configuration_r(cls, resolution: int, **changes: Any) -> Self:
        """Configuration R, equivariant to rotation: 1x1 kernels, radial filters, twice the channels."""
        r = {"conv_kernel": 1, "use_radial_filters": True, "channel_base": 65536, "channel_max": 1024}
        return cls(**{"resolution": resolution, **r, **changes})

    @property
    def form(self) -> str:
        """The symmetry of its downsampling filters."""
        return "radial filters" if self.use_radial_filters else "separable filters"

    @property
    def num_ws(self) -> int:
        """Latents of the synthesis network: one for the Fourier features, one for each layer, one for torgb."""
        return self.num_layers + 2

    @property
    def input_channels(self) -> int:
        """Channels of the Fourier features."""
        return self.layers()[0].in_channels

    @property
    def input_size(self) -> int:
        """Height and width of the Fourier features in samples."""
        return self.layers()[0].in_size

    @property
    def input_rate(self) -> int:
        """Sampling rate of the Fourier features."""
        return self.layers()[0].in_rate

    @property
    def input_positions(self) -> list[float]:
        """Positions of the samples of the Fourier features on one axis. The image has a width of 1 around 0."""
        size, rate = self.input_size, self.input_rate
        return [(i + 0.5 - size / 2) / rate for i in range(size)]

    def layers(self) -> list[LayerSpec]:
        """Every layer in the order in which the signal meets it; see `layer_list`."""
        return layer_list(self)

    def macs(self) -> int:
        """Multiply-accumulates of the convolutions and of the Fourier features' matrix per image, without filters."""
        return sum(layer.macs for layer in self.layers()) + (self.input_channels * self.input_size) ** 2
