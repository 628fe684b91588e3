"""GFP-GAN and GPEN in float64, from the formulas of the papers (Wang et al. 2021, Yang et al. 2021; Karras et al. 2020 for the decoder).

It shares only the names of the tensors and the hyperparameters with the package. Weights are modulated for each sample, convolutions are
sums over taps, and resampling is written as positions on the axis. Nothing is folded, moved or fused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def convolution(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | float = 0.0, stride: int = 1, pad: int | None = None
) -> np.ndarray:
    """The correlation of `[N, I, H, W]` with `[O, I, k, k]`, zeros around the image."""
    k = weight.shape[2]
    pad = k // 2 if pad is None else pad
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    height, width = ((side - k) // stride + 1 for side in x.shape[2:])
    y = np.zeros((len(x), len(weight), height, width))
    for i in range(k):
        for j in range(k):
            part = x[:, :, i : i + stride * height : stride, j : j + stride * width : stride]
            y += np.einsum("nihw,oi->nohw", part, weight[:, :, i, j])
    return y + np.reshape(bias, (1, -1, 1, 1))


def leaky(x: np.ndarray, slope: float = 0.2) -> np.ndarray:
    return np.where(x >= 0, x, slope * x)


def bilinear(x: np.ndarray, size: int) -> np.ndarray:
    """Linear interpolation between pixel centres at `(i + 1/2) / size` on both axes, constant outside of the first and the last."""
    for axis in (2, 3):
        old = x.shape[axis]
        position = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
        low = np.floor(position).astype(int)
        high = np.minimum(low + 1, old - 1)
        share = (position - low).reshape((-1, 1) if axis == 2 else (1, -1))
        x = x.take(low, axis) * (1 - share) + x.take(high, axis) * share
    return x


def per_sample(x: np.ndarray, weight: np.ndarray, style: np.ndarray, demodulate: bool) -> list[np.ndarray]:
    """The weights of each sample (equations 1 and 3 of StyleGAN2)."""
    modulated = weight[None] * style[:, None, :, None, None]
    if demodulate:
        modulated = modulated / np.sqrt(np.square(modulated).sum((2, 3, 4), keepdims=True) + 1e-8)
    return list(modulated)


def modulated_convolution(x: np.ndarray, weight: np.ndarray, style: np.ndarray, demodulate: bool = True) -> np.ndarray:
    weights = per_sample(x, weight, style, demodulate)
    return np.concatenate([convolution(sample[None], w) for sample, w in zip(x, weights, strict=True)])


class Gfpgan:
    """The network on arrays by their public names."""

    def __init__(self, arrays: Mapping[str, np.ndarray], cfg: Any) -> None:
        self.p, self.cfg = {name: array.astype(np.float64) for name, array in arrays.items()}, cfg

    def conv(self, name: str, x: np.ndarray) -> np.ndarray:
        return convolution(x, self.p[f"{name}.weight"], self.p.get(f"{name}.bias", 0.0))

    def block(self, name: str, x: np.ndarray, size: int) -> np.ndarray:
        y = bilinear(leaky(self.conv(f"{name}.conv1", x)), size)
        return leaky(self.conv(f"{name}.conv2", y)) + self.conv(f"{name}.skip", bilinear(x, size))

    def __call__(self, photo: np.ndarray) -> np.ndarray:
        """`[N, 3, R, R]` in [-1, 1] to the same shape."""
        x, skips, side = leaky(self.conv("conv_body_first", photo)), [], photo.shape[2]
        levels = int(math.log2(side)) - 2
        for i in range(levels):
            side //= 2
            x = self.block(f"conv_body_down.{i}", x, side)
            skips.insert(0, x)
        x = leaky(self.conv("final_conv", x))
        code = x.reshape(len(x), -1) @ self.p["final_linear.weight"].T + self.p["final_linear.bias"]
        width = self.p["stylegan_decoder.style_conv1.modulated_conv.modulation.weight"].shape[1]
        ws = np.broadcast_to(code.reshape(len(x), -1, width), (len(x), 2 * levels + 2, width))

        def style(name: str, index: int) -> np.ndarray:
            return ws[:, index] @ self.p[f"{name}.modulation.weight"].T + self.p[f"{name}.modulation.bias"]

        def layer(name: str, y: np.ndarray, index: int, number: int) -> np.ndarray:
            name = f"stylegan_decoder.{name}"
            conv = f"{name}.modulated_conv"
            y = modulated_convolution(y, self.p[f"{conv}.weight"][0], style(conv, index)) * math.sqrt(2)
            y = y + self.p[f"{name}.weight"] * self.p[f"stylegan_decoder.noises.noise{number}"]
            return leaky(y + self.p[f"{name}.bias"])

        def rgb(name: str, y: np.ndarray, index: int) -> np.ndarray:
            name = f"stylegan_decoder.{name}"
            conv = f"{name}.modulated_conv"
            y = modulated_convolution(y, self.p[f"{conv}.weight"][0], style(conv, index), demodulate=False)
            return y + self.p[f"{name}.bias"]

        y = np.repeat(self.p["stylegan_decoder.constant_input.weight"], len(x), 0)
        y = layer("style_conv1", y, 0, 0)
        image = rgb("to_rgb1", y, 1)
        for i in range(levels):
            side *= 2
            x = self.block(f"conv_body_up.{i}", x + skips[i], side)
            scale, shift = (
                self.conv(f"condition_{kind}.{i}.2", leaky(self.conv(f"condition_{kind}.{i}.0", x)))
                for kind in ("scale", "shift")
            )
            y = layer(f"style_convs.{2 * i}", bilinear(y, side), 2 * i + 1, 2 * i + 1)
            changed = slice(y.shape[1] - scale.shape[1], None)
            y[:, changed] = y[:, changed] * scale + shift
            y = layer(f"style_convs.{2 * i + 1}", y, 2 * i + 2, 2 * i + 2)
            image = rgb(f"to_rgbs.{i}", y, 2 * i + 3) + bilinear(image, side)
        return image


def filtered(x: np.ndarray, up: int, before: int, after: int, gain: float) -> np.ndarray:
    """Zeros inserted behind each pixel, zeros around the image, and the FIR [1, 3, 3, 1] on both axes."""
    taps = np.array([1, 3, 3, 1]) / 8
    if up > 1:
        wide = np.zeros((*x.shape[:2], up * x.shape[2], up * x.shape[3]))
        wide[:, :, ::up, ::up] = x
        x = wide
    x = np.pad(x, ((0, 0), (0, 0), (before, after), (before, after)))
    for axis in (2, 3):
        x = sum(tap * x.take(np.arange(x.shape[axis] - 3) + i, axis) for i, tap in enumerate(taps))
    return x * gain


class Gpen:
    """The network on arrays by their public names."""

    def __init__(self, arrays: Mapping[str, np.ndarray], cfg: Any) -> None:
        self.p, self.cfg = {name: array.astype(np.float64) for name, array in arrays.items()}, cfg

    def linear(self, name: str, x: np.ndarray, lr: float = 1.0) -> np.ndarray:
        weight = self.p[f"{name}.weight"] * lr / math.sqrt(self.p[f"{name}.weight"].shape[1])
        return x @ weight.T + self.p[f"{name}.bias"] * lr

    def activated(self, x: np.ndarray, bias: str) -> np.ndarray:
        return math.sqrt(2) * leaky(x + self.p[bias].reshape(-1, 1, 1))

    def scaled(self, name: str) -> np.ndarray:
        weight = self.p[f"{name}.weight"]
        weight = weight[0] if weight.ndim == 5 else weight
        return weight / math.sqrt(weight[0].size)

    def layer(self, name: str, x: np.ndarray, w: np.ndarray, features: np.ndarray, up: bool) -> np.ndarray:
        name = f"generator.{name}"
        weight, style = self.scaled(f"{name}.conv"), self.linear(f"{name}.conv.modulation", w)
        if up:
            # A transposed convolution: zeros inserted, then a true convolution with the weights, without its border.
            wide = np.zeros((*x.shape[:2], 2 * x.shape[2] - 1, 2 * x.shape[3] - 1))
            wide[:, :, ::2, ::2] = x
            weights = per_sample(x, weight[:, :, ::-1, ::-1], style, True)
            y = np.concatenate([convolution(s[None], k, pad=2) for s, k in zip(wide, weights, strict=True)])
            y = filtered(y, 1, 1, 1, 4)
        else:
            y = modulated_convolution(x, weight, style)
        y = np.concatenate([y, self.p[f"{name}.noise.weight"] * features], 1)
        return self.activated(y, f"{name}.activate.bias")

    def rgb(self, name: str, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        name = f"generator.{name}"
        style = self.linear(f"{name}.conv.modulation", w)
        return modulated_convolution(x, self.scaled(f"{name}.conv"), style, demodulate=False) + self.p[f"{name}.bias"]

    def __call__(self, photo: np.ndarray) -> np.ndarray:
        """`[N, 3, R, R]` in [-1, 1] to the same shape."""
        x = self.activated(convolution(photo, self.scaled("ecd0.0.0")), "ecd0.0.1.bias")
        features, levels = [x], int(math.log2(photo.shape[2])) - 2
        for i in range(1, levels + 1):
            x = convolution(filtered(x, 1, 2, 2, 1), self.scaled(f"ecd{i}.0.1"), stride=2, pad=0)
            x = self.activated(x, f"ecd{i}.0.2.bias")
            features.insert(0, x)
        w = math.sqrt(2) * leaky(self.linear("final_linear.0", x.reshape(len(x), -1)))
        w = w / np.sqrt(np.square(w).mean(1, keepdims=True) + 1e-8)
        for i in range(1, self.cfg.mapping_layers + 1):
            w = math.sqrt(2) * leaky(self.linear(f"generator.style.{i}", w, 0.01))
        y = np.repeat(self.p["generator.input.input"], len(x), 0)
        y = self.layer("conv1", y, w, features[0], up=False)
        image = self.rgb("to_rgb1", y, w)
        for i in range(levels):
            y = self.layer(f"convs.{2 * i}", y, w, features[i + 1], up=True)
            y = self.layer(f"convs.{2 * i + 1}", y, w, features[i + 1], up=False)
            image = self.rgb(f"to_rgbs.{i}", y, w) + filtered(image, 2, 2, 1, 4)
        return image


REFERENCES = {"gfpgan": Gfpgan, "gpen": Gpen}
