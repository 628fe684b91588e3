"""StyleGAN1 in float64 NumPy, written from the formulas of the paper.

It shares only the names of the tensors with the package. Upsampling layers are written as the paper's code runs them in
large images: a transposed convolution with the four shifts of the kernel, which is rotated here.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from tests.models.stylegan2.float64_reference import correlate, zero_insert


class Reference:
    """The formulas on the weights of a PyTorch module. `p` is its state dict."""

    def __init__(self, module: torch.nn.Module, norm_eps: float = 1e-8, bias_before_blur: bool = False) -> None:
        self.p = {k: v.detach().double().numpy() for k, v in module.state_dict().items()}
        self.norm_eps, self.bias_before_blur = norm_eps, bias_before_blur

    def mapping(self, z: np.ndarray, c: np.ndarray | None = None) -> np.ndarray:
        """`[N, w_dim]`."""
        w = z if c is None else np.concatenate([z, c @ self.p["mapping.label_embed.weight"].T], 1)
        w = w / np.sqrt((w**2).mean(1, keepdims=True) + 1e-8)
        i = 0
        while (weight := self.p.get(f"mapping.fc{i}.weight")) is not None:
            gain = math.sqrt(2 / weight.shape[1]) * 0.01
            # The file has StyleGAN2's biases, which come in front of a gain of sqrt(2).
            w = lrelu(w @ weight.T * gain + self.p[f"mapping.fc{i}.bias"] * (0.01 * math.sqrt(2)))
            i += 1
        return w

    def synthesis(self, ws: np.ndarray, noise: bool = True) -> np.ndarray:
        """ws `[N, num_ws, w_dim]` to images `[N, C, R, R]`."""
        x = np.repeat(self.p["synthesis.b4.input.const"][None], len(ws), 0)
        x = self.epilogue("synthesis.b4.input", self.biased("synthesis.b4.input", x), ws[:, 0], noise)
        for i in range(1, ws.shape[1]):
            name = f"synthesis.b{4 * 2 ** (i // 2)}.conv{i % 2}"
            x = self.epilogue(name, self.convolution(name, x, up=i % 2 == 0), ws[:, i], noise)
        name = f"synthesis.b{x.shape[2]}.torgb"
        weight = self.p[f"{name}.weight"]
        return self.biased(name, np.einsum("oi,nihw->nohw", weight[:, :, 0, 0] / math.sqrt(weight.shape[1]), x))

    def biased(self, name: str, x: np.ndarray) -> np.ndarray:
        return x + self.p[f"{name}.bias"][:, None, None]

    def convolution(self, name: str, x: np.ndarray, up: bool) -> np.ndarray:
        """The 3x3 convolution with its bias and, in an upsampling layer, its blur."""
        weight = self.p[f"{name}.weight"]
        weight = weight * math.sqrt(2 / weight[0].size)
        if not up:
            return self.biased(name, correlate(padded(x), weight))
        shifts = [np.pad(weight, [(0, 0), (0, 0), (dy, 1 - dy), (dx, 1 - dx)]) for dy in (0, 1) for dx in (0, 1)]
        x = correlate(np.pad(zero_insert(x), [(0, 0), (0, 0), (2, 1), (2, 1)]), np.sum(shifts, axis=0))
        x = self.biased(name, x) if self.bias_before_blur else x
        taps = np.outer([1, 2, 1], [1, 2, 1]) / 16
        windows = np.lib.stride_tricks.sliding_window_view(padded(x), (3, 3), axis=(2, 3))
        x = np.einsum("nchwkl,kl->nchw", windows, taps)
        return x if self.bias_before_blur else self.biased(name, x)

    def epilogue(self, name: str, x: np.ndarray, w: np.ndarray, noise: bool) -> np.ndarray:
        """Noise, leaky ReLU, instance norm and style."""
        if noise:
            x = x + self.p[f"{name}.noise_const"] * self.p[f"{name}.noise_strength"][:, None, None]
        x = lrelu(x)
        x = (x - x.mean((2, 3), keepdims=True)) / np.sqrt(x.var((2, 3), keepdims=True) + self.norm_eps)
        weight, bias = self.p[f"{name}.affine.weight"], self.p[f"{name}.affine.bias"]
        style = w @ weight.T / math.sqrt(weight.shape[1]) + bias
        scale, offset = np.split(style[:, :, None, None], 2, axis=1)
        return x * scale + offset


def reference(generator: torch.nn.Module) -> Reference:
    """The formulas of a module `Generator`."""
    return Reference(generator, generator.cfg.norm_eps, generator.cfg.bias_before_blur)


def padded(x: np.ndarray) -> np.ndarray:
    return np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)])


def lrelu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.2 * x)
