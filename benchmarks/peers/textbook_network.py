"""StyleGAN2's synthesis network as it is usually written in PyTorch, on the same parameters. For comparison only.

The two forms are those of the official code (Karras et al. 2020a):

- `grouped`: the weights of each sample are modulated and demodulated; a grouped convolution has one group per sample.
- `scaled`: the activations are scaled before and after an ordinary convolution.

Noise is constant, and images are float32.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from stylert.models.stylegan2.config import LayerSpec
from stylert.models.stylegan2.networks import SynthesisLayer, SynthesisNetwork, ToRGB

Modulation = Literal["grouped", "scaled"]


class TextbookSynthesis(nn.Module):
    """The textbook form of a synthesis network: ws `[N, num_ws, w_dim]` to images `[N, C, R, R]` in `[-1, 1]`.

    Args:
        network: Its parameters are shared. It must have the skip architecture and the 4-tap filter.
        modulation: `grouped` or `scaled`.

    Raises:
        ValueError: The network has another architecture or filter.
    """

    def __init__(self, network: SynthesisNetwork, modulation: Modulation) -> None:
        super().__init__()
        if network.cfg.architecture != "skip" or len(network.cfg.resample_filter) != 4:
            raise ValueError("the textbook forms are written for the skip architecture and the 4-tap filter")
        self.network, self.modulation = network, modulation

    def forward(self, ws: Tensor) -> Tensor:
        x = img = None
        for res in self.network.cfg.block_resolutions:
            block = getattr(self.network, f"b{res}")
            fir = block.resample_filter
            if x is None:
                x = block.const.unsqueeze(0).repeat(ws.shape[0], 1, 1, 1)
            if img is not None:
                img = _upsample(img, fir)
            for spec in block.specs:
                layer, w = getattr(block, spec.name.split(".")[1]), ws[:, spec.ws_index]
                if spec.kind == "conv":
                    x = self._conv(spec, layer, x, w, fir)
                else:
                    rgb = self._to_rgb(layer, x, w)
                    img = rgb if img is None else img + rgb
        assert img is not None
        return img

    def _conv(self, spec: LayerSpec, layer: SynthesisLayer, x: Tensor, w: Tensor, fir: Tensor) -> Tensor:
        style = layer.affine(w)
        if self.modulation == "grouped":
            weight = layer.weight.unsqueeze(0) * style[:, None, :, None, None]
            weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
            x = grouped_conv(x, weight, spec.up)
        else:
            demod = ((layer.weight.unsqueeze(0) * style[:, None, :, None, None]).square().sum((2, 3, 4)) + 1e-8).rsqrt()
            x = _shared_conv(x * style[:, :, None, None], layer.weight, spec.up) * demod[:, :, None, None]
        if spec.up == 2:
            x = _filter(x, fir * 4, 1)
        x = x + layer.noise_const * layer.noise_strength + layer.bias[:, None, None]
        return F.leaky_relu(x, 0.2) * 2**0.5

    def _to_rgb(self, layer: ToRGB, x: Tensor, w: Tensor) -> Tensor:
        style = layer.affine(w) * layer.weight_gain
        if self.modulation == "grouped":
            y = grouped_conv(x, layer.weight.unsqueeze(0) * style[:, None, :, None, None], 1)
        else:
            y = F.conv2d(x * style[:, :, None, None], layer.weight)
        return y + layer.bias[:, None, None]


def _shared_conv(x: Tensor, weight: Tensor, up: int) -> Tensor:
    """Convolve `x` `[N, I, H, W]` with one weight for all samples, `[O, I, 3, 3]`."""
    if up == 2:
        return F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    return F.conv2d(x, weight, padding=1)


def grouped_conv(x: Tensor, weight: Tensor, up: int) -> Tensor:
    """Convolve `x` `[N, I, H, W]` with one weight per sample, `[N, O, I, k, k]`."""
    n, o, i, k, _ = weight.shape
    x = x.reshape(1, n * i, *x.shape[2:])
    if up == 2:
        y = F.conv_transpose2d(x, weight.transpose(1, 2).reshape(n * i, o, k, k), stride=2, groups=n)
    else:
        y = F.conv2d(x, weight.reshape(n * o, i, k, k), padding=k // 2, groups=n)
    return y.reshape(n, o, *y.shape[2:])


def _filter(x: Tensor, fir: Tensor, pad: int) -> Tensor:
    """Convolve every channel with the FIR filter."""
    return F.conv2d(x, fir.flip((0, 1)).expand(x.shape[1], 1, -1, -1), padding=pad, groups=x.shape[1])


def _upsample(x: Tensor, fir: Tensor) -> Tensor:
    """Upsample 2x as the official code: insert zeros, pad by [2, 1, 2, 1], filter."""
    n, c, h, w = x.shape
    x = F.pad(x.reshape(n, c, h, 1, w, 1), [0, 1, 0, 0, 0, 1]).reshape(n, c, 2 * h, 2 * w)
    return _filter(F.pad(x, [2, 1, 2, 1]), fir * 4, 0)
