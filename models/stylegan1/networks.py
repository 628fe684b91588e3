"""StyleGAN1's generator: z and a label to w (`MappingNetwork`), then w to an image (`SynthesisNetwork`).

The synthesis network begins with a learned constant of 4x4 pixels and doubles the resolution in each block:

    const ─▶ b4 ─▶ b8 ─▶ ... ─▶ bR ─▶ torgb

Each layer adds noise and a bias to its signal, activates it, and normalises every channel of every image. The latent w
then gives each channel its scale and its mean (AdaIN, equation 1 of the paper). Progressive growing has ended: the image
comes from the torgb of the last resolution.

Paper: Karras et al. 2018, section 2 and appendix C. Weights have an equalised learning rate (Karras et al. 2017,
section 4.1): they are stored with unit variance. Those in front of a leaky ReLU are multiplied by `sqrt(2 / fan_in)`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylert.models.stylegan1.config import BLUR_TAPS, GeneratorConfig, LayerSpec
from stylert.models.stylegan2.generator import NoiseMode
from stylert.models.stylegan2.layers import FullyConnected, MappingNetwork
from stylert.plugins.constants import ACTIVATION_GAIN, LRELU_SLOPE


class LabelledMappingNetwork(MappingNetwork):
    """A mapping network that joins z and an embedded label, and then normalises both as one vector.

    Without labels it is StyleGAN2's. The leaky ReLU of both has the same function: a gain in front of it, as the paper
    has, equals one behind it with smaller biases. Importers convert the biases.
    """

    def __init__(self, cfg: GeneratorConfig) -> None:
        width = cfg.z_dim * (2 if cfg.c_dim else 1)
        super().__init__(width, 0, cfg.w_dim, cfg.num_ws, cfg.mapping_layers, cfg.w_avg_beta)
        self.classes = cfg.c_dim
        if cfg.c_dim:
            self.label_embed = nn.Linear(cfg.c_dim, cfg.z_dim, bias=False)
            nn.init.normal_(self.label_embed.weight)

    def forward(
        self, z: Tensor | None, c: Tensor | None = None, psi: float = 1.0, cutoff: int | None = None, update_w_avg: bool = False
    ) -> Tensor:
        """As `MappingNetwork.forward`. `z` is needed."""
        assert z is not None
        z = z.float()
        if self.classes:
            if c is None:
                raise ValueError(f"this network takes labels: pass c of shape [N, {self.classes}]")
            z = torch.cat([z, self.label_embed(c.float())], dim=1)
        return super().forward(z, None, psi, cutoff, update_w_avg)


class SynthesisLayer(nn.Module):
    """The constant or a 3x3 convolution, then noise, bias, leaky ReLU and AdaIN."""

    def __init__(self, spec: LayerSpec, cfg: GeneratorConfig) -> None:
        super().__init__()
        self.spec, self.norm_eps, self.bias_before_blur = spec, cfg.norm_eps, cfg.bias_before_blur
        channels = spec.out_channels
        if spec.kind == "const":
            self.const = nn.Parameter(torch.ones(channels, 4, 4))
        else:
            self.weight = nn.Parameter(torch.randn(channels, spec.in_channels, spec.kernel, spec.kernel))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.noise_strength = nn.Parameter(torch.zeros(channels))
        self.affine = FullyConnected(cfg.w_dim, 2 * channels)
        with torch.no_grad():
            self.affine.bias[:channels] = 1
        self.noise_const: Tensor
        self.register_buffer("noise_const", torch.randn(spec.resolution, spec.resolution))

    def forward(self, x: Tensor, w: Tensor, noise_mode: NoiseMode = "const") -> Tensor:
        """x `[N, in_channels, R / up, R / up]` and w `[N, w_dim]` to `[N, out_channels, R, R]`.

        The constant has no input, so the values of `x` do not matter there.
        """
        noise = self._noise(len(w), w.device, noise_mode)
        x = self._signal(x)
        if noise is not None:
            x = x + noise * self.noise_strength[:, None, None]
        x = F.leaky_relu(x, LRELU_SLOPE)
        x = x - x.mean((2, 3), keepdim=True)
        x = x * (x.square().mean((2, 3), keepdim=True) + self.norm_eps).rsqrt()
        scale, offset = self.affine(w)[:, :, None, None].chunk(2, dim=1)
        return x * scale + offset

    def _signal(self, x: Tensor) -> Tensor:
        """The constant `[1, C, 4, 4]` or the convolution, with the bias."""
        bias = self.bias[:, None, None]
        if self.spec.kind == "const":
            return self.const[None] + bias
        weight: Tensor = self.weight * (ACTIVATION_GAIN["lrelu"] / self.weight[0].numel() ** 0.5)
        if self.spec.up == 1:
            return F.conv2d(x, weight, padding=1) + bias
        x = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, padding=1)
        return blur(x + bias) if self.bias_before_blur else blur(x) + bias

    def _noise(self, n: int, device: torch.device, mode: NoiseMode) -> Tensor | None:
        """`[R, R]`, or `[N, 1, R, R]` where it is random."""
        if mode == "random":
            res = self.spec.resolution
            return torch.randn(n, 1, res, res, device=device)
        return self.noise_const if mode == "const" else None


class ToRGB(nn.Module):
    """1x1 convolution to the channels of the image."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(spec.out_channels, spec.in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(spec.out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """x `[N, in_channels, R, R]` to `[N, img_channels, R, R]`."""
        return F.conv2d(x, self.weight / self.weight.shape[1] ** 0.5, self.bias)


class SynthesisNetwork(nn.Module):
    """Latents to images, through blocks of rising resolution."""

    def __init__(self, cfg: GeneratorConfig) -> None:
        super().__init__()
        self.cfg, self.specs = cfg, cfg.layers()
        for spec in self.specs:
            block, layer = spec.name.split(".")
            if not hasattr(self, block):
                setattr(self, block, nn.ModuleDict())
            getattr(self, block)[layer] = ToRGB(spec) if spec.kind == "torgb" else SynthesisLayer(spec, cfg)

    def forward(self, ws: Tensor, noise_mode: NoiseMode = "const") -> Tensor:
        """Make images `[N, img_channels, R, R]`, float32, nominally in [-1, 1].

        Args:
            ws: One latent per layer, `[N, num_ws, w_dim]`.
            noise_mode: See `NoiseMode`.

        Raises:
            ValueError: `ws` has another shape.
        """
        if ws.ndim != 3 or ws.shape[1:] != (self.cfg.num_ws, self.cfg.w_dim):
            raise ValueError(f"ws must be [N, {self.cfg.num_ws}, {self.cfg.w_dim}], not {list(ws.shape)}")
        x = ws = ws.float()
        for spec in self.specs[:-1]:
            x = self.layer(spec)(x, ws[:, spec.ws_index], noise_mode)
        image: Tensor = self.layer(self.specs[-1])(x)
        return image

    def layer(self, spec: LayerSpec) -> nn.Module:
        """The module of a layer."""
        block, layer = spec.name.split(".")
        module: nn.Module = getattr(self, block)[layer]
        return module


class Generator(nn.Module):
    """The whole generator, `synthesis(mapping(z, c))`."""

    def __init__(self, cfg: GeneratorConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.synthesis = SynthesisNetwork(cfg)
        self.mapping = LabelledMappingNetwork(cfg)

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        psi: float = 1.0,
        cutoff: int | None = None,
        noise_mode: NoiseMode = "const",
    ) -> Tensor:
        """z `[N, z_dim]` and c `[N, c_dim]` to images `[N, img_channels, R, R]`, float32, nominally in [-1, 1].

        `psi` and `cutoff` are those of `MappingNetwork.forward`, `noise_mode` that of `SynthesisNetwork.forward`.
        """
        return self.synthesis(self.mapping(z, c, psi, cutoff), noise_mode)


def blur(x: Tensor) -> Tensor:
    """The low-pass filter `BLUR_TAPS` on both axes, with zeros outside of the image."""
    taps = torch.tensor(BLUR_TAPS, dtype=x.dtype, device=x.device) / sum(BLUR_TAPS)
    kernel = torch.outer(taps, taps).expand(x.shape[1], 1, -1, -1)
    return F.conv2d(x, kernel, padding=1, groups=x.shape[1])
