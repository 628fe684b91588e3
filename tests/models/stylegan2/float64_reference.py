"""StyleGAN2 in float64 NumPy, written from the formulas of the papers.

It shares only the names of the tensors with the package.
"""

import math

import numpy as np
import torch

FIR = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64


class Reference:
    """The formulas on the weights of a PyTorch module. `p` is its state dict."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.p = {k: v.detach().double().numpy() for k, v in module.state_dict().items()}

    def linear(self, name: str, x: np.ndarray, lr: float = 1.0) -> np.ndarray:
        weight, bias = self.p[f"{name}.weight"], self.p[f"{name}.bias"]
        return x @ weight.T * (lr / math.sqrt(weight.shape[1])) + bias * lr

    def mapping(self, z: np.ndarray | None, c: np.ndarray | None, prefix: str = "mapping") -> np.ndarray:
        parts = [] if z is None else [z]
        if c is not None:
            parts.append(self.linear(f"{prefix}.embed", c))
        w = np.concatenate([x / np.sqrt((x**2).mean(1, keepdims=True) + 1e-8) for x in parts], 1)
        for i in range(sum(k.startswith(f"{prefix}.fc") and k.endswith(".weight") for k in self.p)):
            w = lrelu(self.linear(f"{prefix}.fc{i}", w, 0.01))
        return w

    def synthesis(self, ws: np.ndarray, resolution: int, noise: bool = True) -> np.ndarray:
        """ws `[N, num_ws, w_dim]` to images `[N, C, R, R]`, skip architecture. Each sample has its own weights."""
        x, image, i = np.repeat(self.p["synthesis.b4.const"][None], len(ws), 0), None, 0
        for res in [2**k for k in range(2, int(math.log2(resolution)) + 1)]:
            if res > 4:
                x, i = self.layer(f"synthesis.b{res}.conv0", x, ws[:, i], True, noise), i + 1
            x, i = self.layer(f"synthesis.b{res}.conv1", x, ws[:, i], False, noise), i + 1
            name = f"synthesis.b{res}.torgb"
            weight, style = self.p[f"{name}.weight"], self.linear(f"{name}.affine", ws[:, i])
            y = np.einsum("oi,ni,nihw->nohw", weight[:, :, 0, 0] / math.sqrt(weight.shape[1]), style, x)
            y = y + self.p[f"{name}.bias"][:, None, None]
            image = y if image is None else y + double(image)
        return image

    def layer(self, name: str, x: np.ndarray, w: np.ndarray, up: bool, noise: bool) -> np.ndarray:
        style = self.linear(f"{name}.affine", w)
        weight = self.p[f"{name}.weight"] * style[:, None, :, None, None]
        weight = weight / np.sqrt((weight**2).sum((2, 3, 4), keepdims=True) + 1e-8)
        if up:
            # A transposed convolution correlates the zero-inserted image with the flipped kernel.
            x, weight = np.pad(zero_insert(x), [(0, 0), (0, 0), (2, 1), (2, 1)]), weight[..., ::-1, ::-1]
            x = np.stack([correlate(a[None], b)[0] for a, b in zip(x, weight, strict=True)])
            x = fir(np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)])) * 4
        else:
            x = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)])
            x = np.stack([correlate(a[None], b)[0] for a, b in zip(x, weight, strict=True)])
        if noise:
            x = x + self.p[f"{name}.noise_const"] * self.p[f"{name}.noise_strength"]
        return lrelu(x + self.p[f"{name}.bias"][:, None, None])

    def conv(self, name: str, x: np.ndarray, down: bool = False, linear: bool = False) -> np.ndarray:
        """A convolution of the discriminator. A filter comes first where it halves the resolution."""
        weight = self.p[f"{name}.weight"]
        edge = weight.shape[2] // 2 + down
        x = np.pad(x, [(0, 0), (0, 0), (edge, edge), (edge, edge)])
        x = fir(x) if down else x
        y = correlate(x, weight / math.sqrt(weight[0].size))
        y = y[:, :, ::2, ::2] if down else y
        return y if linear else lrelu(y + self.p[f"{name}.bias"][:, None, None])

    def discriminator(self, image: np.ndarray, c: np.ndarray | None, architecture: str, group: int) -> np.ndarray:
        x, res = None, image.shape[2]
        while res > 4:
            name = f"b{res}"
            if f"{name}.fromrgb.weight" in self.p:
                y = self.conv(f"{name}.fromrgb", image)
                x = y if x is None else x + y
            y = self.conv(f"{name}.conv1", self.conv(f"{name}.conv0", x), down=True)
            if architecture == "resnet":
                y = (y + self.conv(f"{name}.skip", x, down=True, linear=True)) / math.sqrt(2)
            x, res = y, res // 2
            if architecture == "skip":
                image = fir(np.pad(image, [(0, 0), (0, 0), (1, 1), (1, 1)]))[:, :, ::2, ::2]
        if architecture == "skip":
            x = x + self.conv("b4.fromrgb", image)
        x = self.conv("b4.conv", with_group_deviation(x, group))
        x = lrelu(self.linear("b4.fc", x.reshape(len(x), -1)))
        y = self.linear("b4.out", x)
        if c is None:
            return y
        return (y * self.mapping(None, c)).sum(1, keepdims=True) / math.sqrt(y.shape[1])


def lrelu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.2 * x) * math.sqrt(2)


def zero_insert(x: np.ndarray) -> np.ndarray:
    y = np.zeros((*x.shape[:2], x.shape[2] * 2, x.shape[3] * 2))
    y[:, :, ::2, ::2] = x
    return y


def double(image: np.ndarray) -> np.ndarray:
    return fir(np.pad(zero_insert(image), [(0, 0), (0, 0), (2, 1), (2, 1)])) * 4


def correlate(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Correlate `[N, I, H, W]` with `[O, I, k, k]`, without padding."""
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(2, 3))
    return np.einsum("nihwkl,oikl->nohw", windows, weight, optimize=True)


def fir(x: np.ndarray) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(x, FIR.shape, axis=(2, 3))
    return np.einsum("nchwkl,kl->nchw", windows, FIR[::-1, ::-1])


def with_group_deviation(x: np.ndarray, group: int) -> np.ndarray:
    """Append the minibatch standard deviation. Samples n, n + N/G, n + 2N/G, ... form a group."""
    n = len(x)
    groups = n // min(group, n)
    extra = np.empty((n, 1, *x.shape[2:]))
    for i in range(groups):
        extra[i::groups] = np.sqrt(x[i::groups].var(0) + 1e-8).mean()
    return np.concatenate([x, extra], 1)
