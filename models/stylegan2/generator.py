"""StyleGAN2's generator: z and a label to w (`MappingNetwork`), then w to an image (`SynthesisNetwork`).

The synthesis network begins with a learned constant, in general of 4x4 pixels, and doubles the resolution in each block:

    const ─▶ b4 ─▶ b8 ─▶ ... ─▶ bR        each block: conv0 (2x up), conv1, and torgb into the image

Every convolution is modulated by its own latent w (Karras et al. 2020a, section 2.2). Parameters and buffers carry the
names of the official PyTorch implementation, so its state dicts load unchanged.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from stylert.models.stylegan2.config import RESNET_GAIN, GeneratorConfig, LayerSpec
from stylert.models.stylegan2.layers import Conv2d, FullyConnected, MappingNetwork
from stylert.plugins.constants import activation_gain
from stylert.plugins.ops import modulated_conv2d, upsample2d
from stylert.plugins.reference.modulated_conv2d import demodulation
from stylert.plugins.reference.upfirdn2d import setup_filter

#: The noise of each layer: the stored `noise_const`, fresh for each image, or left out.
NoiseMode = Literal["const", "random", "none"]

#: Lower bound of the divisors that normalise for float16, so that weights or styles of zeros stay zero.
FP16_EPS = 1e-8


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution with demodulation, noise, bias and leaky ReLU.

    Modulation is equation 1 of Karras et al. 2020a and demodulation is equation 3. The style is an affine function of w.
    """

    def __init__(self, spec: LayerSpec, cfg: GeneratorConfig) -> None:
        super().__init__()
        self.up, self.clamp = spec.up, cfg.conv_clamp
        self.affine = FullyConnected(cfg.w_dim, spec.in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(spec.out_channels, spec.in_channels, spec.kernel, spec.kernel))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(spec.out_channels))
        self.noise_const: Tensor
        self.resample_filter: Tensor
        self.register_buffer("noise_const", torch.randn(spec.height, spec.width))
        self.register_buffer("resample_filter", setup_filter(cfg.resample_filter))

    def forward(self, x: Tensor, w: Tensor, noise_mode: NoiseMode = "const", gain: float = 1.0) -> Tensor:
        """x `[N, in, H, W]` and w `[N, w_dim]` to `[N, out, H * up, W * up]`, times `gain`. The clamp scales with it."""
        weight: Tensor = self.weight
        style = self.affine(w)
        if x.dtype == torch.float16:
            weight, style = self._normalized(weight, style)
        return modulated_conv2d(
            x,
            weight,
            style,
            demodulation(weight, style),
            self._noise(x, noise_mode),
            self.bias,
            up=self.up,
            f=self.resample_filter,
            activation="lrelu",
            gain=activation_gain("lrelu") * gain,
            clamp=None if self.clamp is None else self.clamp * gain,
        )

    def _normalized(self, weight: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and style scaled to at most one, so that no sum overflows float16 (Karras et al. 2020b, appendix D).

        Demodulation cancels both scales, so the output stays the same.
        """
        fan_in = weight[0].numel()
        largest_weight = weight.abs().amax((1, 2, 3), keepdim=True).clamp_min(FP16_EPS)
        largest_style = style.abs().amax(1, keepdim=True).clamp_min(FP16_EPS)
        return weight / (fan_in**0.5 * largest_weight), style / largest_style

    def _noise(self, x: Tensor, mode: NoiseMode) -> Tensor | None:
        """Noise `[H, W]` or `[N, 1, H, W]` times its strength, or None."""
        if mode == "const":
            return self.noise_const * self.noise_strength
        if mode == "random":
            return torch.randn(x.shape[0], 1, *self.noise_const.shape, device=x.device) * self.noise_strength
        return None


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to the channels of the image, without demodulation, noise or activation."""

    def __init__(self, spec: LayerSpec, cfg: GeneratorConfig) -> None:
        super().__init__()
        self.clamp = cfg.conv_clamp
        self.weight_gain = 1 / (spec.in_channels * spec.kernel**2) ** 0.5
        self.affine = FullyConnected(cfg.w_dim, spec.in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(spec.out_channels, spec.in_channels, spec.kernel, spec.kernel))
        self.bias = nn.Parameter(torch.zeros(spec.out_channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x `[N, in, H, W]` and w `[N, w_dim]` to `[N, img_channels, H, W]`."""
        style = self.affine(w) * self.weight_gain
        return modulated_conv2d(x, self.weight, style, bias=self.bias, clamp=self.clamp)


class SynthesisBlock(nn.Module):
    """The layers of one resolution: conv0 (2x up) and conv1, and torgb where the architecture has it.

    With the "resnet" architecture, a 1x1 shortcut goes around the two convolutions (Karras et al. 2020a, figure 7).
    """

    def __init__(self, resolution: int, specs: list[LayerSpec], cfg: GeneratorConfig) -> None:
        super().__init__()
        self.specs = specs
        self.use_fp16 = cfg.is_fp16(resolution)
        self.resample_filter: Tensor
        self.register_buffer("resample_filter", setup_filter(cfg.resample_filter))
        if resolution == 4:
            self.const = nn.Parameter(torch.randn(cfg.channels(4), cfg.const_height, cfg.const_width))
        for spec in specs:
            layer = ToRGB(spec, cfg) if spec.kind == "torgb" else SynthesisLayer(spec, cfg)
            setattr(self, spec.name_in_block, layer)
        self.residual = resolution in cfg.shortcuts()
        if self.residual:
            inner, outer = cfg.shortcuts()[resolution]
            self.skip = Conv2d(inner, outer, 1, cfg.resample_filter, bias=False)

    def forward(
        self, x: Tensor | None, img: Tensor | None, ws: Tensor, noise_mode: NoiseMode, half: torch.dtype | None
    ) -> tuple[Tensor, Tensor | None]:
        """One block up.

        Args:
            x: Activations of the previous block, `[N, in, H / 2, W / 2]`. None at 4 px, where the constant begins.
            img: Image so far, float32 `[N, img_channels, H / 2, W / 2]`, or None where there is none yet.
            ws: All latents, `[N, num_ws, w_dim]`.
            noise_mode: See `NoiseMode`.
            half: float16 or bfloat16 for the blocks that may run in it, or None for float32.

        Returns:
            Activations `[N, out, H, W]`, and the image at `[H, W]` in float32 or None.
        """
        if x is None:
            x = self.const.unsqueeze(0).expand(ws.shape[0], -1, -1, -1)
        dtype = half if self.use_fp16 and half is not None else torch.float32
        x = x.to(dtype, memory_format=torch.channels_last)
        if img is not None:
            img = upsample2d(img, self.resample_filter)
        shortcut = upsample2d(self.skip(x, gain=RESNET_GAIN), self.skip.resample_filter) if self.residual else None
        for spec in self.specs:
            layer, w = getattr(self, spec.name_in_block), ws[:, spec.ws_index]
            if spec.kind == "torgb":
                rgb = layer(x, w).float()
                img = rgb if img is None else img + rgb
            elif shortcut is not None and spec.up == 1:
                x = shortcut + layer(x, w, noise_mode, RESNET_GAIN)
            else:
                x = layer(x, w, noise_mode)
        return x, img


class SynthesisNetwork(nn.Module):
    """Latents to images, through blocks of rising resolution."""

    def __init__(self, cfg: GeneratorConfig) -> None:
        super().__init__()
        self.cfg = cfg
        layers = cfg.layers()
        for res in cfg.block_resolutions:
            specs = [spec for spec in layers if spec.resolution == res]
            setattr(self, f"b{res}", SynthesisBlock(res, specs, cfg))

    def forward(self, ws: Tensor, noise_mode: NoiseMode = "random", half: torch.dtype | None = None) -> Tensor:
        """Make images `[N, img_channels, H, W]`, float32, nominally in [-1, 1].

        Args:
            ws: One latent per layer, `[N, num_ws, w_dim]`.
            noise_mode: See `NoiseMode`.
            half: float16 or bfloat16 for the `num_fp16_res` highest blocks, or None for float32 throughout.

        Raises:
            ValueError: `ws` has another shape.
        """
        if ws.ndim != 3 or ws.shape[1:] != (self.cfg.num_ws, self.cfg.w_dim):
            raise ValueError(f"ws must be [N, {self.cfg.num_ws}, {self.cfg.w_dim}], not {list(ws.shape)}")
        x = img = None
        for res in self.cfg.block_resolutions:
            x, img = getattr(self, f"b{res}")(x, img, ws.float(), noise_mode, half)
        assert img is not None
        return img


class Generator(nn.Module):
    """The whole generator, `synthesis(mapping(z, c))`."""

    def __init__(self, cfg: GeneratorConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.synthesis = SynthesisNetwork(cfg)
        self.mapping = MappingNetwork(cfg.z_dim, cfg.c_dim, cfg.w_dim, cfg.num_ws, cfg.mapping_layers, cfg.w_avg_beta)

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        psi: float = 1.0,
        cutoff: int | None = None,
        noise_mode: NoiseMode = "const",
        half: torch.dtype | None = None,
    ) -> Tensor:
        """z `[N, z_dim]` and c `[N, c_dim]` to images `[N, img_channels, H, W]`, float32, nominally in [-1, 1].

        `psi` and `cutoff` are those of `MappingNetwork.forward`, `noise_mode` and `half` those of `SynthesisNetwork.forward`.
        """
        return self.synthesis(self.mapping(z, c, psi, cutoff), noise_mode, half)
