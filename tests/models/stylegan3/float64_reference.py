"""StyleGAN3's synthesis in float64, from the formulas of the paper, with the filters of SciPy.

It shares only the names of the tensors and the hyperparameters with the package. Sizes, rates, filters and positions are computed here
anew. Positions are continuous, so no padding occurs: a layer's outputs lie where they belong on the axis of its signal.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.signal
import scipy.special
import torch


class Reference:
    """The formulas on the weights of a module. `p` holds its tensors, `cfg` only its hyperparameters."""

    def __init__(self, module: torch.nn.Module, cfg: Any) -> None:
        self.p = {k: v.detach().double().numpy() for k, v in module.state_dict().items()}
        self.cfg = cfg

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        weight = self.p[f"{name}.weight"]
        return x @ weight.T / math.sqrt(weight.shape[1]) + self.p[f"{name}.bias"]

    def band(self, i: int) -> tuple[float, float, int]:
        """Cutoff, half-width of the transition band and sampling rate behind layer i (equations of section 3.2)."""
        cfg = self.cfg
        share = min(i / (cfg.num_layers - cfg.num_critical), 1)
        cutoff = math.exp((1 - share) * math.log(cfg.first_cutoff) + share * math.log(cfg.resolution / 2))
        last = cfg.resolution / 2 * cfg.last_stopband_rel
        stopband = math.exp((1 - share) * math.log(cfg.first_stopband) + share * math.log(last))
        rate = 1
        while rate < min(2 * stopband, cfg.resolution) * (1 - 1e-12):
            rate *= 2
        return cutoff, max(stopband, rate / 2) - cutoff, rate

    def synthesis(self, ws: np.ndarray, transform: np.ndarray | None = None) -> np.ndarray:
        """ws `[N, num_ws, w_dim]` and transforms `[N, 3, 3]` to images `[N, C, R, R]`."""
        cfg = self.cfg
        transform = np.tile(np.eye(3), (len(ws), 1, 1)) if transform is None else transform
        x = self.features(ws[:, 0], transform)
        for i in range(cfg.num_layers + 1):
            x = self.layer(i, x, ws[:, i + 1])
        return x * cfg.output_scale

    def features(self, w: np.ndarray, transform: np.ndarray) -> np.ndarray:
        """The Fourier features, sample by sample of the batch."""
        cutoff, _, rate = self.band(0)
        axis = (np.arange(rate + 2 * self.cfg.margin_size) + 0.5) / rate - 0.5 - self.cfg.margin_size / rate
        x, y = np.meshgrid(axis, axis)
        points = np.stack([x, y, np.ones_like(x)])
        freqs, phases, weight = (self.p[f"synthesis.input.{name}"] for name in ("freqs", "phases", "weight"))
        images = []
        for t, user in zip(self.linear("synthesis.input.affine", w), transform, strict=True):
            c, s, tx, ty = t / math.hypot(t[0], t[1])
            frame = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, -tx], [0, 1, -ty], [0, 0, 1]]) @ user
            q = np.einsum("ij,jhw->ihw", frame, points)[:2]
            waves = np.sin(2 * np.pi * (np.einsum("ck,khw->chw", freqs, q) + phases[:, None, None]))
            sizes = np.linalg.norm(freqs @ frame[:2, :2], axis=1)
            fade = np.clip(1 - (sizes - cutoff) / (rate / 2 - cutoff), 0, 1)
            images.append(np.tensordot(weight / math.sqrt(len(weight)), waves * fade[:, None, None], 1))
        return np.array(images)

    def layer(self, i: int, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        cfg, is_torgb = self.cfg, i == self.cfg.num_layers
        (prefix,) = {k.rsplit(".", 1)[0] for k in self.p if k.startswith(f"synthesis.L{i}_") and k.endswith(".magnitude_ema")}
        weight, style = self.p[f"{prefix}.weight"], self.linear(f"{prefix}.affine", w)
        if is_torgb:
            style = style / math.sqrt(weight[0].size)
            weights = weight * style[:, None, :, None, None]
        else:
            weights = weight * style[:, None, :, None, None]
            weights = weights / np.sqrt((weights**2).sum((2, 3, 4), keepdims=True))
        weights = weights / np.sqrt(self.p[f"{prefix}.magnitude_ema"])
        edge = weight.shape[2] - 1
        padded = np.pad(x, [(0, 0), (0, 0), (edge, edge), (edge, edge)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], axis=(2, 3))
        x = np.einsum("nihwkl,noikl->nohw", windows, weights, optimize=True) + self.p[f"{prefix}.bias"][:, None, None]
        bound = math.inf if cfg.conv_clamp is None else cfg.conv_clamp
        if is_torgb:
            return np.clip(x, -bound, bound)
        return self.nonlinearity(i, x, bound)

    def nonlinearity(self, i: int, x: np.ndarray, bound: float) -> np.ndarray:
        """Up, leaky ReLU, down. Filters extend the signal; the layer keeps the samples around the centre."""
        cfg = self.cfg
        before, behind = self.band(max(i - 1, 0)), self.band(i)
        rate = cfg.lrelu_upsampling * max(before[2], behind[2])
        up, down = rate // before[2], rate // behind[2]
        is_critical = i >= cfg.num_layers - cfg.num_critical
        up_taps, down_taps = (cfg.filter_size * factor if factor > 1 else 1 for factor in (up, down))
        fu = filter_of(up_taps, before[0], before[1], rate, False)
        fd = filter_of(down_taps, behind[0], behind[1], rate, cfg.use_radial_filters and not is_critical)
        n = x.shape[2]
        inserted = np.zeros((*x.shape[:2], n * up, n * up))
        inserted[:, :, ::up, ::up] = x * up**2
        y = full_convolution(inserted, fu)
        y = np.clip(math.sqrt(2) * np.where(y > 0, y, 0.2 * y), -bound, bound)
        y = full_convolution(y, fd)
        size = cfg.resolution if i >= cfg.num_layers - 1 else behind[2] + 2 * cfg.margin_size
        # Sample k of y lies at k - (taps of both filters, less 2) / 2 + (1 - n) / 2 * up around the centre of the canvas.
        first = (1 - size) / 2 * down - (1 - n) / 2 * up + (len(fu) + len(fd) - 2) / 2
        wanted = math.floor(first) + down * np.arange(size)
        inside = (wanted >= 0) & (wanted < y.shape[2])
        y = y[:, :, np.where(inside, wanted, 0)] * inside[:, None]
        return y[..., np.where(inside, wanted, 0)] * inside


def filter_of(taps: int, cutoff: float, half_width: float, rate: float, radial: bool) -> np.ndarray:
    """`[taps, taps]` with unit sum."""
    if taps == 1:
        return np.ones((1, 1))
    if not radial:
        f = scipy.signal.firwin(taps, cutoff, width=2 * half_width, fs=rate)
        return np.outer(f, f)
    axis = (np.arange(taps) - (taps - 1) / 2) / rate
    r = np.sqrt(axis[:, None] ** 2 + axis**2)
    with np.errstate(invalid="ignore"):
        jinc = np.where(r == 0, cutoff, scipy.special.j1(2 * np.pi * cutoff * r) / (np.pi * r))
    window = np.kaiser(taps, scipy.signal.kaiser_beta(scipy.signal.kaiser_atten(taps, 2 * half_width / (rate / 2))))
    f = jinc * np.outer(window, window)
    return f / f.sum()


def full_convolution(x: np.ndarray, f: np.ndarray) -> np.ndarray:
    """`[N, C, H, W]` with `[t, t]`, all positions at which they overlap."""
    return scipy.signal.convolve(x, f[None, None], mode="full", method="direct" if f.size <= 36 else "fft")
