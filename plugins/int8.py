"""ModulatedConv2d in 8 bits: what the kernel's operands become. Symmetric, per output channel and per activation tensor.

With `q = round(clip(s * x / a, -127, 127))` and `w = c_o * p`, both integers times a scale, the layer's sum is
`a * c_o * sum p * q`: one integer product, and two scales that go where style and demodulation already stand.
"""

from __future__ import annotations

import torch
from torch import Tensor


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Integers and scales of a weight.

    Args:
        weight: `[P, O, k, k, I]`, float. The phases of an output channel share a scale, because they share a demodulation.

    Returns:
        int8 of the same shape within -127 to 127, and float32 scales `[O]`; `weight` is about integers times scale.

    Raises:
        ValueError: another number of dimensions, or values that are not finite.
    """
    if weight.ndim != 5 or not torch.isfinite(weight).all():
        raise ValueError(f"quantize_weight takes finite [P, O, k, k, I], not {list(weight.shape)}")
    scale = (weight.float().abs().amax((0, 2, 3, 4)) / 127).clamp(min=1e-12)
    return (weight.float() / scale[:, None, None, None]).round().clamp(-127, 127).to(torch.int8), scale


def layer_operands(style: Tensor, demod: Tensor | None, activation_scale: float, weight_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Style `[N, I]` and demod `[N, O]` as the kernel wants them beside int8 weights, both float32.

    `activation_scale` is what one step of the modulated activations is worth, `weight_scale` `[O]` the weights' scales.

    Raises:
        ValueError: a scale that is not positive and finite.
    """
    if not 0 < activation_scale < float("inf"):
        raise ValueError(f"the activation scale must be positive and finite, not {activation_scale}")
    scale = (weight_scale.float() * activation_scale).expand(style.shape[0], -1)
    return style.float() / activation_scale, (scale if demod is None else scale * demod.float()).contiguous()
