"""The plan of an exported StyleGAN1 network: the graph form, the migrated scales and the quantisation of each layer.

Plans are data, as those of StyleGAN2 (`network_plan.py`). All plans of one network compute the same images, but for rounding.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from stylert.export.network_plan import Int8Quantization

#: The form of an upsampling layer in front of its blur.
UpForm = Literal["transposed", "phases"]


@dataclass(frozen=True, eq=False)
class QuantizedLayer:
    """A convolution in 8-bit integers.

    Attributes:
        input_scale: `[I]`, positive. The input of the convolution is divided by it, and its weights are multiplied by it
            (SmoothQuant, Xiao et al. 2022). The style of the layer before applies it, so it costs nothing.
        int8: The quantisation.
    """

    input_scale: np.ndarray
    int8: Int8Quantization


@dataclass(frozen=True)
class NetworkPlan:
    """The plan of a synthesis network.

    Forms of an upsampling layer, which all come in front of its blur:

    - `transposed`: a stride-2 transposed convolution with 4x4 taps.
    - `phases`: one 2x2 convolution to four phases and a depth-to-space. All arithmetic is in an ordinary convolution, and
      every backend has that in 8 bits. It has no multiplications by zero.

    Attributes:
        quantized: The layers in 8 bits, by name.
        float16: Whether layers compute in float16. Statistics, styles and the image stay in float32.
        unit_signals: Whether signals are scaled to about unit size for every sample. Instance norm undoes any scale of its
            input, so that images stay the same. float16 needs it.
        up_form: The form of upsampling layers.
    """

    quantized: Mapping[str, QuantizedLayer] = field(default_factory=dict)
    float16: bool = False
    unit_signals: bool = False
    up_form: UpForm = "transposed"

    def __post_init__(self) -> None:
        if self.float16 and not self.unit_signals:
            raise ValueError("float16 needs unit signals")

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """The type of signals and float weights, and of the quantisation scales."""
        return np.dtype(np.float16 if self.float16 else np.float32)

    @property
    def quantized_layers(self) -> list[str]:
        return list(self.quantized)

    def without_quantization(self, names: Collection[str]) -> NetworkPlan:
        """The plan with these layers in the float type of the network."""
        return replace(self, quantized={name: layer for name, layer in self.quantized.items() if name not in names})

    def with_limited_pairs(self) -> NetworkPlan:
        """The plan with int8 weights whose products do not saturate on any processor."""
        limited = {
            name: QuantizedLayer(layer.input_scale, replace(layer.int8, limit_pairs=True))
            for name, layer in self.quantized.items()
        }
        return replace(self, quantized=limited)


def float16_plan() -> NetworkPlan:
    """Every layer in float16."""
    return NetworkPlan(float16=True, unit_signals=True)
