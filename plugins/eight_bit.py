"""ModulatedConv2d in 8 bits: what the kernel's operands become. Symmetric, per output channel and per activation tensor.

With `q = r(s * x / a)` and `w = c_o * p`, where `r` rounds to the format and both are its numbers times a scale, the layer's
sum is `a * c_o * sum p * q`: one 8-bit product, and two scales that go where style and demodulation already stand.

int8 has equal steps to 127; FP8 is E4M3 (Micikevicius et al. 2022), three bits of fraction and values to 448.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: The largest value of each format: a tensor's scale is its largest value divided by this.
LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}


def quantize_weight(weight: Tensor, dtype: torch.dtype = torch.int8) -> tuple[Tensor, Tensor]:
    """A weight in 8 bits, and its scales.

    Args:
        weight: `[P, O, k, k, I]`, float. The phases of an output channel share a scale, because they share a demodulation.
        dtype: torch.int8 or torch.float8_e4m3fn.

    Returns:
        `dtype` of the same shape, and float32 scales `[O]`; `weight` is about the one times the other.

    Raises:
        ValueError: another number of dimensions or dtype, or values that are not finite.
    """
    if dtype not in LARGEST:
        raise ValueError(f"quantize_weight makes {' or '.join(map(str, LARGEST))}, not {dtype}")
    if weight.ndim != 5 or not torch.isfinite(weight).all():
        raise ValueError(f"quantize_weight takes finite [P, O, k, k, I], not {list(weight.shape)}")
    scale = (weight.float().abs().amax((0, 2, 3, 4)) / LARGEST[dtype]).clamp(min=1e-12)
    units = (weight.float() / scale[:, None, None, None]).clamp(-LARGEST[dtype], LARGEST[dtype])
    return (units.round() if dtype == torch.int8 else units).to(dtype), scale


def layer_operands(style: Tensor, demod: Tensor | None, activation_scale: float, weight_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Style `[N, I]` and demod `[N, O]` as the kernel wants them beside 8-bit weights, both float32.

    `activation_scale` is what one unit of the modulated activations is worth, `weight_scale` `[O]` the weights' scales.

    Raises:
        ValueError: a scale that is not positive and finite.
    """
    if not 0 < activation_scale < float("inf"):
        raise ValueError(f"the activation scale must be positive and finite, not {activation_scale}")
    scale = (weight_scale.float() * activation_scale).expand(style.shape[0], -1)
    return style.float() / activation_scale, (scale if demod is None else scale * demod.float()).contiguous()
