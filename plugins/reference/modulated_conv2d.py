"""ModulatedConv2d in PyTorch: one whole synthesis layer of StyleGAN2 (Karras et al. 2020, equations 1 and 3).

The operator includes the layer's epilogue: noise, bias and activation. The paper scales the weights by the style. Here
the style scales the activations, because with a style per input channel and a demodulation per output channel

    sum_i (d_o * w_oi * s_i) * x_i = d_o * sum_i w_oi * (s_i * x_i)

So all samples of a batch share one ordinary convolution.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stylert.plugins.constants import DEMOD_EPS, activation_gain
from stylert.plugins.reference.bias_act import bias_act
from stylert.plugins.reference.upfirdn2d import apply_resampling
from stylert.plugins.shapes import Resampling, modulated_conv2d_shape


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
        weight: `[O, I, k, k]`, k odd. It is the kernel of a correlation if `up` is 1, and of a transposed convolution
            if `up` is 2, as in the official weights.
        style: `[N, I]`, multiplies the input channels.
        demod: `[N, O]`, multiplies the output channels (see `demodulation`), or None.
        noise: Broadcastable to `[N, 1, H * up, W * up]`, already scaled by its strength, or None.
        bias: `[O]` or None.
        up: 1 or 2.
        f: `[t, t]`, the FIR filter behind the transposed convolution. Needed if `up` is 2.
        activation: See `bias_act`.
        gain: See `bias_act`.
        clamp: See `bias_act`.

    Returns:
        `[N, O, H * up, W * up]` in the dtype of `x`.

    Raises:
        ValueError: Shapes that do not fit together, or an attribute that the operator does not define.
    """
    demod_shape, noise_shape, bias_shape, f_shape = (None if t is None else t.shape for t in (demod, noise, bias, f))
    modulated_conv2d_shape(x.shape, weight.shape, style.shape, demod_shape, noise_shape, bias_shape, f_shape, up)
    gain = activation_gain(activation, gain)

    x = x * style.to(x.dtype)[:, :, None, None]
    w = weight.to(x.dtype)
    k = weight.shape[2]
    if up == 1:
        x = F.conv2d(x, w, padding=k // 2)
    else:
        assert f is not None
        x = F.conv_transpose2d(x, w.transpose(0, 1), stride=2)
        x = apply_resampling(x, f, Resampling.after_transposed_convolution(k, f.shape[0]))

    if demod is None:
        x = x if noise is None else x + noise.to(x.dtype)
        return bias_act(x, bias, activation=activation, gain=gain, clamp=clamp)
    # The activation is positively homogeneous, so its gain moves into the small factors before it and
    # saves a pass over x.
    d = (demod * gain).to(x.dtype)[:, :, None, None]
    x = x * d if bias is None else torch.addcmul((bias * gain).to(x.dtype)[None, :, None, None], x, d)
    if noise is not None:
        x = x + (noise * gain).to(x.dtype)
    return bias_act(x, None, activation=activation, gain=1.0, clamp=clamp)


def demodulation(weight: Tensor, style: Tensor) -> Tensor:
    """Demodulation coefficients, equation 3: `rsqrt(sum_ikl (w * s)^2 + 1e-8)`.

    The square of a product is the product of the squares. So the sum is one small matrix product.

    Args:
        weight: `[O, I, k, k]`.
        style: `[N, I]`.

    Returns:
        `[N, O]`.
    """
    return (style.square() @ weight.square().sum((2, 3)).t() + DEMOD_EPS).rsqrt()
