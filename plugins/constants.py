"""Constants of the operators: demodulation epsilon, leaky ReLU slope, activation gains, 8-bit limits, kernel dtypes.

This module imports no torch.
"""

from __future__ import annotations

import math

#: Keeps the demodulation of an all-zero style finite (Karras et al. 2020, equation 3).
DEMOD_EPS = 1e-8

LRELU_SLOPE = 0.2

#: Activation name to the gain that keeps the variance of a unit normal input (He et al. 2015).
ACTIVATION_GAIN = {"linear": 1.0, "lrelu": math.sqrt(2.0)}

#: Dtypes of images that the kernels take. They accumulate in float32.
KERNEL_DTYPES = ("float16", "bfloat16", "float32")

#: The largest value of each 8-bit format. FP8 is E4M3 (Micikevicius et al. 2022).
LARGEST_8_BIT_VALUE = {"int8": 127.0, "fp8": 448.0}


def activation_gain(activation: str, gain: float | None = None) -> float:
    """The gain of an activation.

    Args:
        activation: "linear" or "lrelu".
        gain: Positive and finite, or None for the activation's own gain (1 and sqrt(2)).

    Raises:
        ValueError: An unknown activation, or a gain that is not positive and finite.
    """
    if activation not in ACTIVATION_GAIN:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATION_GAIN)}, not {activation!r}")
    if gain is None:
        return ACTIVATION_GAIN[activation]
    if not (gain > 0 and math.isfinite(gain)):
        raise ValueError(f"gain must be positive and finite, not {gain}")
    return float(gain)
