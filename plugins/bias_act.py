"""Bias, activation, gain and clamp: the tail of every StyleGAN2 layer. The PyTorch reference."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from stylert.plugins.definitions import ACTIVATION_GAIN, LRELU_SLOPE


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
        gain: None takes the activation's own gain (1 and sqrt(2)).
        clamp: bound of the absolute value, or None.

    Raises:
        ValueError: unknown activation, or a bias that does not match the channels.
    """
    if activation not in ACTIVATION_GAIN:
        raise ValueError(f"bias_act: activation must be one of {', '.join(ACTIVATION_GAIN)}, not {activation!r}")
    if b is not None:
        if b.shape != x.shape[1:2]:
            raise ValueError(f"bias_act: bias {list(b.shape)} does not match {x.shape[1]} channels")
        x = x + b.to(x.dtype).reshape([1, -1] + [1] * (x.ndim - 2))
    if activation == "lrelu":
        x = F.leaky_relu(x, LRELU_SLOPE)
    gain = ACTIVATION_GAIN[activation] if gain is None else gain
    if gain != 1.0:
        x = x * gain
    if clamp is not None:
        x = x.clamp(-clamp, clamp)
    return x
