"""ModulatedConv2d: one whole synthesis layer of StyleGAN2. The PyTorch reference.

Karras et al. 2020, equations 1 and 3, with the layer's tail (noise, bias, activation) in the same operator. The
modulation is applied to the activations instead of the weights: because the style scales input channels and the
demodulation scales output channels, `demod_o * sum_i w_oi * (s_i * x_i)` is the same number, and the whole batch shares
one ordinary convolution.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from stylert.plugins.constants import DEMOD_EPS
from stylert.plugins.reference.bias_act import activation_gain, bias_act
from stylert.plugins.reference.upfirdn2d import upfirdn2d


def demodulation(weight: Tensor, style: Tensor) -> Tensor:
    """Demodulation coefficients, equation 3: `rsqrt(sum_ikl (w * s)^2 + 1e-8)`.

    `weight` is `[O, I, k, k]`, `style` `[N, I]`; returns `[N, O]`. The square of a product is the product of the
    squares, so the sum over samples and channels is one small matrix product.
    """
    return (style.square() @ weight.square().sum((2, 3)).t() + DEMOD_EPS).rsqrt()


def fir_padding(k: int, taps: int) -> list[int]:
    """Of the FIR behind a transposed convolution: it centres the 2H + k - 2 pixels on the 2H of the output."""
    total = taps - 1 - (k - 2)
    return [math.ceil(total / 2), total // 2] * 2


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    demod: Tensor | None = None,
    noise: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    up: int = 1,
    f: Tensor | None = None,
    activation: str = "linear",
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """Modulate, convolve (optionally 2x up with FIR `f`), demodulate, add noise and bias, activate, scale, clamp.

    Args:
        x: `[N, I, H, W]`.
        weight: `[O, I, k, k]`, k odd; the kernel of a correlation when `up` is 1, and of a transposed convolution
            when `up` is 2, as in the official weights.
        style: `[N, I]`, multiplies the input channels.
        demod: `[N, O]`, multiplies the output channels (see `demodulation`), or None.
        noise: broadcastable to the output, already scaled by its strength, or None.
        bias: `[O]` or None.
        up: 1 or 2.
        f: `[fh, fw]`, the FIR filter that follows the transposed convolution; needed when `up` is 2.
        activation, gain, clamp: see `bias_act`.

    Returns:
        `[N, O, H * up, W * up]` in the dtype of `x`.

    Raises:
        ValueError: on shapes that do not fit together.
    """
    n, i = x.shape[:2]
    o, wi, kh, kw = weight.shape
    if wi != i or style.shape != (n, i) or (demod is not None and demod.shape != (n, o)):
        raise ValueError(
            f"modulated_conv2d: x {list(x.shape)}, weight {list(weight.shape)}, style {list(style.shape)} and demod "
            f"{None if demod is None else list(demod.shape)} do not fit together"
        )
    if bias is not None and bias.shape != (o,):
        raise ValueError(f"modulated_conv2d: bias {list(bias.shape)} does not match {o} channels")
    if kh != kw or kh % 2 == 0:
        raise ValueError(f"modulated_conv2d: the kernel must be square and odd, not {kh}x{kw}")

    x = x * style.to(x.dtype)[:, :, None, None]
    w = weight.to(x.dtype)
    if up == 1:
        x = F.conv2d(x, w, padding=kh // 2)
    elif up == 2:
        if f is None:
            raise ValueError("modulated_conv2d: up=2 needs the FIR filter f")
        x = F.conv_transpose2d(x, w.transpose(0, 1), stride=2)
        x = upfirdn2d(x, f, padding=fir_padding(kh, f.shape[0]), gain=4.0)
    else:
        raise ValueError(f"modulated_conv2d: up must be 1 or 2, not {up}")
    # The tail in as few passes over the activations as it takes: the activation is positively homogeneous, so its gain moves
    # into the small factors in front of it, and demodulation and bias are one multiply-add.
    gain = activation_gain(activation, gain)
    if demod is None:
        x = x if noise is None else x + noise.to(x.dtype)
        return bias_act(x, bias, activation=activation, gain=gain, clamp=clamp)
    d = (demod * gain).to(x.dtype)[:, :, None, None]
    x = x * d if bias is None else torch.addcmul((bias * gain).to(x.dtype)[None, :, None, None], x, d)
    if noise is not None:
        x = x + (noise * gain).to(x.dtype)
    return bias_act(x, None, activation=activation, gain=1.0, clamp=clamp)
