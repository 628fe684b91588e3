"""GPEN in PyTorch (Yang et al. 2021, section 3), with the layers of StyleGAN2 (Karras et al. 2020) and its FIR filters.

Weights have an equalised learning rate: they are scaled by `1 / sqrt(fan_in)` at each use, also in front of the demodulation.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylert.models.restoration.gfpgan.config import RGB, DecoderLayer
from stylert.models.restoration.gpen.config import GpenConfig
from stylert.models.stylegan2.config import FIR_TAPS, MAPPING_LR_MULTIPLIER
from stylert.models.stylegan2.layers import normalize_2nd_moment
from stylert.plugins.reference.bias_act import bias_act
from stylert.plugins.reference.modulated_conv2d import demodulation, modulated_conv2d
from stylert.plugins.reference.upfirdn2d import setup_filter, upfirdn2d, upsample2d


class Gpen(nn.Module):
    """Photographs to restored images.

    Args:
        cfg: See `GpenConfig`.
    """

    def __init__(self, cfg: GpenConfig) -> None:
        super().__init__()
        self.cfg = cfg
        channels, levels = cfg.channels, len(cfg.channels)
        self.encoder_names = [f"ecd{i}" for i in range(levels)]
        self.ecd0 = nn.Sequential(nn.Sequential(_Weight(channels[-1], RGB, 1), _Bias(channels[-1])))
        for i, level in enumerate(range(levels - 1, 0, -1), 1):
            layer = nn.Sequential(nn.Identity(), _Weight(channels[level - 1], channels[level], 3), _Bias(channels[level - 1]))
            setattr(self, f"ecd{i}", nn.Sequential(layer))
        self.final_linear = nn.Sequential(_Linear(channels[0] * 16, cfg.w_dim, 1.0))
        self.generator = Decoder(cfg)

    def forward(self, x: Tensor) -> Tensor:
        """Photographs `[N, 3, R, R]` in [-1, 1] to images of the same shape, nominally in [-1, 1]."""
        fir = setup_filter(FIR_TAPS).to(x)
        features: list[Tensor] = []
        for name in self.encoder_names:
            *_, weight, bias = getattr(self, name)[0]
            if features:
                x = upfirdn2d(x, fir, padding=[2, 2, 2, 2])
            x = F.conv2d(x, weight.scaled(), stride=2 if features else 1)
            x = bias_act(x, bias.bias, activation="lrelu")
            features.append(x)
        return self.generator(self.final_linear(x.flatten(1)), features[::-1])


class Decoder(nn.Module):
    """The mapping and synthesis networks of StyleGAN2, with the features of the encoder in place of noise."""

    def __init__(self, cfg: GpenConfig) -> None:
        super().__init__()
        layers, rgb_layers = list(cfg.layers()), list(cfg.rgb_layers())
        mapping = (_Linear(cfg.w_dim, cfg.w_dim, MAPPING_LR_MULTIPLIER) for _ in range(cfg.mapping_layers))
        self.style = nn.Sequential(nn.Identity(), *mapping)
        self.input = nn.ParameterDict({"input": nn.Parameter(torch.randn(1, cfg.channels[0], 4, 4))})
        self.conv1 = StyledConv(layers[0], cfg.w_dim)
        self.convs = nn.ModuleList(StyledConv(layer, cfg.w_dim) for layer in layers[1:])
        self.to_rgb1 = ToRgb(rgb_layers[0], cfg.w_dim)
        self.to_rgbs = nn.ModuleList(ToRgb(layer, cfg.w_dim) for layer in rgb_layers[1:])

    def forward(self, code: Tensor, features: list[Tensor]) -> Tensor:
        """The encoder's code `[N, w_dim]`, and its features from 4 px on, to images `[N, 3, R, R]`."""
        w = self.style(normalize_2nd_moment(code))
        fir = setup_filter(FIR_TAPS).to(w)
        x = self.conv1(self.input["input"].expand(len(w), -1, -1, -1), w, features[0])
        image = self.to_rgb1(x, w)
        for i, feature in enumerate(features[1:]):
            x = self.convs[2 * i](x, w, feature)
            x = self.convs[2 * i + 1](x, w, feature)
            image = self.to_rgbs[i](x, w) + upsample2d(image, fir)
        return image


class StyledConv(nn.Module):
    """A modulated 3x3 convolution, then the encoder's features as further channels, bias and leaky ReLU times √2."""

    def __init__(self, layer: DecoderLayer, w_dim: int) -> None:
        super().__init__()
        self.up = layer.up
        self.conv = ModulatedConv(layer, w_dim, 3)
        self.noise = nn.ParameterDict({"weight": nn.Parameter(torch.zeros(1))})
        self.activate = _Bias(2 * layer.out_channels)

    def forward(self, x: Tensor, w: Tensor, features: Tensor) -> Tensor:
        weight, style = self.conv(w)
        fir = setup_filter(FIR_TAPS).to(x) if self.up == 2 else None
        x = modulated_conv2d(x, weight, style, demodulation(weight, style), up=self.up, f=fir)
        x = torch.cat([x, self.noise["weight"] * features], 1)
        return bias_act(x, self.activate.bias, activation="lrelu")


class ToRgb(nn.Module):
    """A modulated 1x1 convolution to RGB, without demodulation."""

    def __init__(self, layer: DecoderLayer, w_dim: int) -> None:
        super().__init__()
        self.conv = ModulatedConv(layer, w_dim, 1)
        self.bias = nn.Parameter(torch.zeros(1, RGB, 1, 1))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        weight, style = self.conv(w)
        return modulated_conv2d(x, weight, style, bias=self.bias.flatten())


class ModulatedConv(nn.Module):
    """The weights, scaled by `1 / sqrt(fan_in)`, and the style of a modulated convolution."""

    def __init__(self, layer: DecoderLayer, w_dim: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, layer.out_channels, layer.in_channels, kernel, kernel))
        self.modulation = _Linear(w_dim, layer.in_channels, 1.0, "linear")
        nn.init.ones_(self.modulation.bias)

    def forward(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """The weights `[O, I, k, k]` and the style `[N, I]`."""
        weight = self.weight[0]
        return weight / math.sqrt(weight[0].numel()), self.modulation(w)


class _Linear(nn.Module):
    """`act(x @ (weight * lr / sqrt(fan_in)).T + bias * lr)`. The leaky ReLU has a gain of √2."""

    def __init__(self, inputs: int, outputs: int, lr: float, activation: str = "lrelu") -> None:
        super().__init__()
        self.lr, self.activation = lr, activation
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weight * (self.lr / math.sqrt(x.shape[1])))
        return bias_act(x, self.bias * self.lr, activation=self.activation)


class _Weight(nn.Module):
    def __init__(self, outputs: int, inputs: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))

    def scaled(self) -> Tensor:
        """The weights times `1 / sqrt(fan_in)`."""
        return self.weight / math.sqrt(self.weight[0].numel())


class _Bias(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))
