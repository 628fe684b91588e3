"""Restoration networks as they are usually written in PyTorch, on the same parameters. For comparison only.

As in the public code of both projects, the weights of each sample are modulated and demodulated, and a grouped convolution has one group
per sample. GFP-GAN enlarges its features and then convolves.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylert.benchmarks.peers.textbook_network import grouped_conv
from stylert.models.restoration.gfpgan import networks as gfpgan
from stylert.models.restoration.gpen import networks as gpen
from stylert.models.stylegan2.config import FIR_TAPS
from stylert.plugins.reference.upfirdn2d import setup_filter


def textbook_form(network: nn.Module) -> nn.Module:
    """The network itself, with its modulated convolutions replaced by those of the public code. They share the parameters."""
    forms = {
        gfpgan.StyledConv: GfpganConv,
        gfpgan.ToRgb: GfpganRgb,
        gpen.StyledConv: GpenConv,
        gpen.ToRgb: GpenRgb,
    }
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if type(child) in forms:
                setattr(module, name, forms[type(child)](child))
    return network


class _TextbookLayer(nn.Module):
    layer: Any  # the layer of the package, whose parameters are used

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer


class GfpganConv(_TextbookLayer):
    def forward(self, x: Tensor, ws: Tensor, noise: Tensor) -> Tensor:
        x = gfpgan.resample(x, 2) if self.layer.up == 2 else x
        x = grouped_conv(x, _demodulated(*self.layer.modulated_conv(ws)), 1) * 2**0.5
        return F.leaky_relu(x + self.layer.weight * noise + self.layer.bias, 0.2)


class GfpganRgb(_TextbookLayer):
    def forward(self, x: Tensor, ws: Tensor) -> Tensor:
        return grouped_conv(x, _modulated(*self.layer.modulated_conv(ws)), 1) + self.layer.bias


class GpenConv(_TextbookLayer):
    def forward(self, x: Tensor, w: Tensor, features: Tensor) -> Tensor:
        x = grouped_conv(x, _demodulated(*self.layer.conv(w)), self.layer.up)
        if self.layer.up == 2:
            fir = setup_filter(FIR_TAPS).to(x) * 4
            x = F.conv2d(x, fir.flip((0, 1)).expand(x.shape[1], 1, -1, -1), padding=1, groups=x.shape[1])
        x = torch.cat([x, self.layer.noise["weight"] * features], 1)
        return F.leaky_relu(x + self.layer.activate.bias[:, None, None], 0.2) * 2**0.5


class GpenRgb(_TextbookLayer):
    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return grouped_conv(x, _modulated(*self.layer.conv(w)), 1) + self.layer.bias


def _modulated(weight: Tensor, style: Tensor) -> Tensor:
    """The weights of each sample, `[N, O, I, k, k]`."""
    return weight[None] * style[:, None, :, None, None]


def _demodulated(weight: Tensor, style: Tensor) -> Tensor:
    weight = _modulated(weight, style)
    return weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
