"""bias_act in PyTorch: bias, activation, gain and clamp, the epilogue of every StyleGAN2 layer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from stylert.plugins.shapes import Epilogue, check_bias_act


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
        gain: Positive. None is the activation's own gain (1 and sqrt(2)).
        clamp: Positive bound of the absolute value, or None.

    Returns:
        A tensor of the shape and dtype of `x`. It is `x` itself if there is nothing to do.

    Raises:
        ValueError: An unknown activation, a gain or a clamp that is not positive, or a bias that does not match the
            channels.
    """
    epilogue = Epilogue.of(activation, gain, clamp)
    check_bias_act(x.shape, None if b is None else b.shape)
    if b is not None:
        x = x + b.to(x.dtype).reshape([1, -1] + [1] * (x.ndim - 2))
    if epilogue.slope != 1.0:
        x = F.leaky_relu(x, epilogue.slope)
    if epilogue.gain != 1.0:
        x = x * epilogue.gain
    if epilogue.clamp:
        x = x.clamp(-epilogue.clamp, epilogue.clamp)
    return x
