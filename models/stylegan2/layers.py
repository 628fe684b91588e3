"""The layers that StyleGAN2's generator and discriminator share: fully connected, convolution and mapping network.

Every weight has an equalised learning rate (Karras et al. 2017, section 4.1): it is stored with unit variance and
scaled by `1 / sqrt(fan_in)` at each use.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylert.models.stylegan2.config import MAPPING_LR_MULTIPLIER, NORM_EPS
from stylert.plugins.constants import activation_gain
from stylert.plugins.ops import bias_act, downsample2d, upfirdn2d
from stylert.plugins.reference.bias_act import bias_act as bias_act_reference
from stylert.plugins.reference.upfirdn2d import setup_filter


def normalize_2nd_moment(x: Tensor, eps: float = NORM_EPS) -> Tensor:
    """Scale each row of `[N, C]` to unit mean square: `x / sqrt(mean(x^2) + eps)`."""
    return x * (x.square().mean(dim=1, keepdim=True) + eps).rsqrt()


class FullyConnected(nn.Module):
    """Linear layer and activation, `[N, in_features]` to `[N, out_features]`.

        y = act(x @ (weight * lr / sqrt(in_features)).T + bias * lr)

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        activation: "linear" or "lrelu".
        lr: Learning rate relative to other layers. The stored weight is `randn / lr`.
        bias_init: Initial value of `bias * lr`.
    """

    def __init__(
        self, in_features: int, out_features: int, activation: str = "linear", lr: float = 1.0, bias_init: float = 0.0
    ) -> None:
        super().__init__()
        self.activation = activation
        self.weight_gain = lr / in_features**0.5
        self.bias_gain = lr
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr)
        self.bias = nn.Parameter(torch.full([out_features], bias_init / lr))

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weight.to(x.dtype) * self.weight_gain)
        # The PyTorch reference: on a GPU, to launch our kernel takes longer than it saves on so few values.
        return bias_act_reference(x, self.bias * self.bias_gain, activation=self.activation)


class Conv2d(nn.Module):
    """Convolution, activation and clamp, optionally 2x down: `[N, in, H, W]` to `[N, out, H / down, W / down]`.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Height and width of the kernel, odd.
        taps: FIR filter, applied in front of the convolution when `down` is 2.
        activation: "linear" or "lrelu".
        bias: Whether there is a bias.
        down: 1 or 2.
        clamp: Bound of the absolute value of the output, or None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        taps: tuple[float, ...],
        activation: str = "linear",
        bias: bool = True,
        down: int = 1,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.activation, self.down, self.clamp, self.kernel = activation, down, clamp, kernel
        self.weight_gain = 1 / (in_channels * kernel**2) ** 0.5
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.resample_filter: Tensor
        self.register_buffer("resample_filter", setup_filter(taps))

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """The output times `gain`. The clamp scales with it."""
        # gain * act(y) = act(gain * y) for gain > 0, so both gains go into weight and bias, which are small.
        total_gain = activation_gain(self.activation) * gain
        weight = (self.weight * (self.weight_gain * total_gain)).to(x.dtype)
        if self.down == 1:
            x = F.conv2d(x, weight, padding=self.kernel // 2)
        elif self.kernel == 1:
            x = F.conv2d(downsample2d(x, self.resample_filter, self.down), weight)
        else:
            # Blur at full size, then convolve at every second pixel. One padding serves the filter and the convolution.
            excess = self.resample_filter.shape[0] - self.down
            before = (excess + 1) // 2 + self.kernel // 2
            after = excess // 2 + self.kernel // 2
            x = upfirdn2d(x, self.resample_filter, padding=[before, after, before, after])
            x = F.conv2d(x, weight, stride=self.down)
        bias = None if self.bias is None else self.bias * total_gain
        clamp = None if self.clamp is None else self.clamp * gain
        return bias_act(x, bias, activation=self.activation, gain=1.0, clamp=clamp)


class MappingNetwork(nn.Module):
    """z and a label to the latent w, by fully connected layers (Karras et al. 2018, section 2).

    The discriminator has one as well, for its labels alone: `z_dim` is then 0 and `num_ws` None.

    Args:
        z_dim: Width of z, 0 without z.
        c_dim: Number of classes, 0 without labels.
        w_dim: Width of w and of every layer.
        num_ws: Number of times that w is repeated, once per layer that it styles. None returns a single w.
        layers: Number of fully connected layers.
        w_avg_beta: Decay of the running average of w, or None to keep no average.
    """

    def __init__(
        self, z_dim: int, c_dim: int, w_dim: int, num_ws: int | None, layers: int, w_avg_beta: float | None = None
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = z_dim, c_dim, w_dim, num_ws
        self.num_layers, self.w_avg_beta = layers, w_avg_beta
        if c_dim:
            self.embed = FullyConnected(c_dim, w_dim)
        width = z_dim + (w_dim if c_dim else 0)
        for i in range(layers):
            setattr(self, f"fc{i}", FullyConnected(width, w_dim, "lrelu", MAPPING_LR_MULTIPLIER))
            width = w_dim
        self.w_avg: Tensor
        if num_ws is not None and w_avg_beta is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(
        self, z: Tensor | None, c: Tensor | None = None, psi: float = 1.0, cutoff: int | None = None, update_w_avg: bool = False
    ) -> Tensor:
        """Map z `[N, z_dim]` and c `[N, c_dim]` to ws `[N, num_ws, w_dim]`, or to w `[N, w_dim]` where `num_ws` is None.

        Args:
            z: Standard normal values, or None where `z_dim` is 0.
            c: One-hot labels, or None without labels.
            psi: Truncation, `w_avg + psi * (w - w_avg)` (Karras et al. 2018, appendix B). 1 leaves w as it is.
            cutoff: Number of leading latents that are truncated. None truncates all.
            update_w_avg: Whether this batch moves the running average.

        Raises:
            ValueError: The network takes labels and `c` is None.
        """
        parts = []
        if self.z_dim:
            assert z is not None
            parts.append(normalize_2nd_moment(z.float()))
        if self.c_dim:
            if c is None:
                raise ValueError(f"this network takes labels: pass c of shape [N, {self.c_dim}]")
            parts.append(normalize_2nd_moment(self.embed(c.float())))
        w = torch.cat(parts, dim=1)
        for i in range(self.num_layers):
            w = getattr(self, f"fc{i}")(w)
        if update_w_avg and self.w_avg_beta is not None:
            self.w_avg.copy_(w.detach().mean(dim=0).lerp(self.w_avg, self.w_avg_beta))
        if self.num_ws is None:
            return w
        ws = w.unsqueeze(1).repeat(1, self.num_ws, 1)
        if psi != 1.0:
            leading = ws[:, :cutoff]
            rest = ws[:, leading.shape[1] :]
            ws = torch.cat([self.w_avg + psi * (leading - self.w_avg), rest], dim=1)
        return ws
