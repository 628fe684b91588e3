"""ModulatedConv2d in 8 bits: quantised weights, and the style and demodulation that carry the scales.

Quantisation is symmetric, with one scale per output channel and one for the activations. With `q = round(s * x / a)`
and `w = c_o * p`, the sum of a layer is

    sum_i w_oi * s_i * x_i = a * c_o * sum_i p_oi * q_i

`p` and `q` are 8-bit numbers. Style and demodulation take the scales `a` and `c_o`. int8 has equal steps up to 127. FP8
is E4M3 (Micikevicius et al. 2022): three bits of fraction, values up to 448.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stylert.plugins.constants import LARGEST_8_BIT_VALUE

#: The largest value of each format. The scale of a tensor is its own largest value divided by this.
LARGEST = {torch.int8: LARGEST_8_BIT_VALUE["int8"], torch.float8_e4m3fn: LARGEST_8_BIT_VALUE["fp8"]}


def quantize_weight(weight: Tensor, dtype: torch.dtype = torch.int8) -> tuple[Tensor, Tensor]:
    """Round a weight to 8 bits.

    Args:
        weight: `[P, O, k, k, I]`, float. The P phases of an output channel share one scale, because they share a
            demodulation.
        dtype: torch.int8 or torch.float8_e4m3fn.

    Returns:
        The rounded weight, of the same shape and of `dtype`, and float32 scales `[O]`. Their product is about `weight`.

    Raises:
        ValueError: Another number of dimensions, another dtype, or values that are not finite.
    """
    if dtype not in LARGEST:
        raise ValueError(f"quantize_weight makes {' or '.join(map(str, LARGEST))}, not {dtype}")
    if weight.ndim != 5 or not torch.isfinite(weight).all():
        raise ValueError(f"quantize_weight takes finite [P, O, k, k, I], not {list(weight.shape)}")
    largest = LARGEST[dtype]
    scale = (weight.float().abs().amax((0, 2, 3, 4)) / largest).clamp(min=1e-12)
    scaled = (weight.float() / scale[:, None, None, None]).clamp(-largest, largest)
    return (scaled.round() if dtype == torch.int8 else scaled).to(dtype), scale


def layer_operands(style: Tensor, demod: Tensor | None, activation_scale: float, weight_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Style and demodulation for the kernel with 8-bit weights.

    Args:
        style: `[N, I]`.
        demod: `[N, O]`, or None.
        activation_scale: Value of one step of the modulated activations, positive.
        weight_scale: `[O]`, the scales of `quantize_weight`.

    Returns:
        The style divided by the activations' scale, `[N, I]`, and the demodulation times both scales, `[N, O]`, in
        float32.

    Raises:
        ValueError: An activation scale that is not positive and finite.
    """
    if not 0 < activation_scale < float("inf"):
        raise ValueError(f"the activation scale must be positive and finite, not {activation_scale}")
    scale = (weight_scale.float() * activation_scale).expand(style.shape[0], -1)
    return style.float() / activation_scale, (scale if demod is None else scale * demod.float()).contiguous()
