"""GFP-GAN in PyTorch (Wang et al. 2021, section 3), with the decoder of StyleGAN2 (Karras et al. 2020).

Resampling is bilinear, so there are no FIR filters. Upsampling by 2 repeats the pixels at the border, and downsampling by 2 is the
mean of four pixels. The noise of the decoder is stored, so a photograph has one image.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylert.models.restoration.gfpgan.config import RGB, DecoderLayer, GfpganConfig
from stylert.plugins.constants import LRELU_SLOPE
from stylert.plugins.reference.modulated_conv2d import demodulation, modulated_conv2d


class Gfpgan(nn.Module):
    """Photographs to restored images.

    Args:
        cfg: See `GfpganConfig`.
    """

    def __init__(self, cfg: GfpganConfig) -> None:
        super().__init__()
        self.cfg = cfg
        channels, levels = cfg.unet_channels, len(cfg.resolutions)
        self.conv_body_first = nn.Conv2d(RGB, channels[-1], 1)
        self.conv_body_down = nn.ModuleList(
            _ResidualBlock(channels[level], channels[level - 1], 0.5) for level in range(levels - 1, 0, -1)
        )
        self.final_conv = nn.Conv2d(channels[0], channels[0], 3, padding=1)
        self.conv_body_up = nn.ModuleList(_ResidualBlock(channels[level - 1], channels[level], 2) for level in range(1, levels))
        self.condition_scale = nn.ModuleList(_condition(cfg, level) for level in range(1, levels))
        self.condition_shift = nn.ModuleList(_condition(cfg, level) for level in range(1, levels))
        latents = cfg.num_ws if cfg.separate_latents else 1
        self.final_linear = nn.Linear(channels[0] * 16, latents * cfg.w_dim)
        self.stylegan_decoder = Decoder(cfg)

    def forward(self, x: Tensor) -> Tensor:
        """Photographs `[N, 3, R, R]` in [-1, 1] to images of the same shape, nominally in [-1, 1]."""
        x = F.leaky_relu(self.conv_body_first(x), LRELU_SLOPE)
        skips = []
        for block in self.conv_body_down:
            x = block(x)
            skips.append(x)
        x = F.leaky_relu(self.final_conv(x), LRELU_SLOPE)
        ws = self.final_linear(x.flatten(1)).unflatten(1, (-1, self.cfg.w_dim))
        ws = ws.expand(-1, self.cfg.num_ws, -1)
        transforms = []
        for block, skip, scale, shift in zip(
            self.conv_body_up, reversed(skips), self.condition_scale, self.condition_shift, strict=True
        ):
            x = block(x + skip)
            transforms.append((scale(x), shift(x)))
        return self.stylegan_decoder(ws, transforms)


class _ResidualBlock(nn.Module):
    """Two convolutions with resampling between them, and a 1x1 convolution around them."""

    def __init__(self, in_channels: int, out_channels: int, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = resample(F.leaky_relu(self.conv1(x), LRELU_SLOPE), self.factor)
        y = F.leaky_relu(self.conv2(y), LRELU_SLOPE)
        return y + self.skip(resample(x, self.factor))


class Decoder(nn.Module):
    """The synthesis network of StyleGAN2, whose features are scaled and shifted by those of the photograph."""

    def __init__(self, cfg: GfpganConfig) -> None:
        super().__init__()
        layers, rgb_layers = list(cfg.layers()), list(cfg.rgb_layers())
        self.constant_input = _Constant(cfg.decoder_channels[0])
        self.style_conv1 = StyledConv(layers[0], cfg.w_dim)
        self.style_convs = nn.ModuleList(StyledConv(layer, cfg.w_dim) for layer in layers[1:])
        self.to_rgb1 = ToRgb(rgb_layers[0], cfg.w_dim)
        self.to_rgbs = nn.ModuleList(ToRgb(layer, cfg.w_dim) for layer in rgb_layers[1:])
        self.noises = nn.Module()
        for i, layer in enumerate(layers):
            self.noises.register_buffer(f"noise{i}", torch.randn(1, 1, layer.resolution, layer.resolution))

    def forward(self, ws: Tensor, transforms: list[tuple[Tensor, Tensor]]) -> Tensor:
        """ws `[N, num_ws, w_dim]`, and scale and shift of each resolution from 8 px on, to images `[N, 3, R, R]`."""
        noises = list(self.noises.buffers())
        x = self.style_conv1(self.constant_input.weight.expand(len(ws), -1, -1, -1), ws, noises[0])
        image = self.to_rgb1(x, ws)
        for i, (scale, shift) in enumerate(transforms):
            x = self.style_convs[2 * i](x, ws, noises[2 * i + 1])
            kept, changed = x[:, : x.shape[1] - scale.shape[1]], x[:, x.shape[1] - scale.shape[1] :]
            x = torch.cat([kept, changed * scale + shift], 1)
            x = self.style_convs[2 * i + 1](x, ws, noises[2 * i + 2])
            image = self.to_rgbs[i](x, ws) + resample(image, 2)
        return image


class StyledConv(nn.Module):
    """A modulated 3x3 convolution times √2, noise, bias and leaky ReLU."""

    def __init__(self, layer: DecoderLayer, w_dim: int) -> None:
        super().__init__()
        self.up = layer.up
        self.modulated_conv = ModulatedConv(layer, w_dim, 3)
        self.weight = nn.Parameter(torch.zeros(1))
        self.bias = nn.Parameter(torch.zeros(1, layer.out_channels, 1, 1))

    def forward(self, x: Tensor, ws: Tensor, noise: Tensor) -> Tensor:
        weight, style = self.modulated_conv(ws)
        demod = demodulation(weight, style) * math.sqrt(2)
        x = resample(x, 2) if self.up == 2 else x
        noise, bias = noise * self.weight, self.bias.flatten()
        return modulated_conv2d(x, weight, style, demod, noise, bias, activation="lrelu", gain=1.0)


class ToRgb(nn.Module):
    """A modulated 1x1 convolution to RGB, without demodulation."""

    def __init__(self, layer: DecoderLayer, w_dim: int) -> None:
        super().__init__()
        self.modulated_conv = ModulatedConv(layer, w_dim, 1)
        self.bias = nn.Parameter(torch.zeros(1, RGB, 1, 1))

    def forward(self, x: Tensor, ws: Tensor) -> Tensor:
        weight, style = self.modulated_conv(ws)
        return modulated_conv2d(x, weight, style, bias=self.bias.flatten())


class ModulatedConv(nn.Module):
    """The weights and the style of a modulated convolution. Weights have no gain of their own."""

    def __init__(self, layer: DecoderLayer, w_dim: int, kernel: int) -> None:
        super().__init__()
        self.ws_index = layer.ws_index
        fan_in = layer.in_channels * kernel**2
        self.weight = nn.Parameter(torch.randn(1, layer.out_channels, layer.in_channels, kernel, kernel) / math.sqrt(fan_in))
        self.modulation = nn.Linear(w_dim, layer.in_channels)
        nn.init.normal_(self.modulation.weight, std=1 / math.sqrt(w_dim))
        nn.init.ones_(self.modulation.bias)

    def forward(self, ws: Tensor) -> tuple[Tensor, Tensor]:
        """The weights `[O, I, k, k]` and the style `[N, I]`."""
        return self.weight[0], self.modulation(ws[:, self.ws_index])


class _Constant(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, channels, 4, 4))


def resample(x: Tensor, factor: float) -> Tensor:
    """Bilinear resampling by 2 or 1/2, with pixel centres at half coordinates."""
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def _condition(cfg: GfpganConfig, level: int) -> nn.Sequential:
    channels = cfg.unet_channels[level]
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.LeakyReLU(LRELU_SLOPE),
        nn.Conv2d(channels, cfg.transformed(level), 3, padding=1),
    )
