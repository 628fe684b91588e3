"""Bias, activation, gain and clamp: the tail of every StyleGAN2 layer. The PyTorch reference."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from stylert.plugins.constants import ACTIVATION_GAIN, LRELU_SLOPE


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    *,
    activation: str = "linear",
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """`clamp(gain * activation(x + b))`, channel by channel.

    Args:
        x: `[N, C, ...]`.
        b: `[C]` or None.
        activation: "linear" or "lrelu" (slope 0.2).
        gain: positive; None takes the activation's own (1 and sqrt(2)).
        clamp: bound of the absolute value, or None.

    Raises:
        ValueError: unknown activation, a gain that is not positive, or a bias that does not match the channels.
    """
    gain = activation_gain(activation, gain)
    if b is not None:
        if b.shape != x.shape[1:2]:
            raise ValueError(f"bias_act: bias {list(b.shape)} does not match {x.shape[1]} channels")
        x = x + b.to(x.dtype).reshape([1, -1] + [1] * (x.ndim - 2))
    if activation == "lrelu":
        x = F.leaky_relu(x, LRELU_SLOPE)
    if gain != 1.0:
        x = x * gain
    if clamp is not None:
        x = x.clamp(-clamp, clamp)
    return x


def activation_gain(activation: str, gain: float | None = None) -> float:
    """`gain`, or the activation's own where it is None. ValueError for an unknown activation or a gain that is not positive."""
    if activation not in ACTIVATION_GAIN:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATION_GAIN)}, not {activation!r}")
    if gain is None:
        return ACTIVATION_GAIN[activation]
    if not gain > 0:
        raise ValueError(f"gain must be positive, not {gain}")
    return gain
