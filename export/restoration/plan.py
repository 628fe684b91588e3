"""The plan of an exported restoration network: forms, number types and quantisation. Plans of one network compute the same images."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from stylert.export.network_plan import QuantParams

#: The greatest value of a signal in float16. A greater one is cut off, so that no photograph can make an image of infinities.
MAX_FLOAT16_SIGNAL = 32768.0


#: Forms of a convolution that doubles the side, as those of StyleGAN2 (`LayerPlan`): one transposed convolution, one convolution to four
#: phases, or one for each phase. The last has no products with zeros, and is made of the convolutions that ONNX Runtime does best.
UpForm = Literal["transposed", "phases", "separate_phases"]


@dataclass(frozen=True)
class QuantizedConv:
    """A convolution in 8-bit integers, with weights of one scale for each output channel.

    Attributes:
        input: The parameters of the tensor that it reads.
        output: The parameters of the tensor that it writes, or None where that stays float. ONNX Runtime computes in 8 bits only
            with them.
    """

    input: QuantParams
    output: QuantParams | None


@dataclass(frozen=True)
class RestorationPlan:
    """The plan of a network.

    Attributes:
        quantized: The convolutions in 8 bits, by name.
        float16: Whether convolutions and signals are in float16. Latents, styles and the image stay in float32.
        encoder_scale: The signals of the encoder are divided by it. A power of two.
        decoder_scale: The same of the decoder.
        operators: Whether wide float32 convolutions are ModulatedConv2d nodes, which the runtime gives Winograd's form where that
            is faster. Otherwise all nodes are ONNX's own.
        up_form: The form of a convolution that doubles the side, in front of its FIR.
    """

    quantized: Mapping[str, QuantizedConv] = field(default_factory=dict)
    float16: bool = False
    encoder_scale: float = 1.0
    decoder_scale: float = 1.0
    operators: bool = True
    up_form: UpForm = "separate_phases"

    def __post_init__(self) -> None:
        if not self.float16 and (self.encoder_scale != 1 or self.decoder_scale != 1):
            raise ValueError("scales of signals are for float16")
        if self.quantized and self.up_form == "separate_phases":
            raise ValueError("separate phases are for float layers")

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """The type of signals and of float weights."""
        return np.dtype(np.float16 if self.float16 else np.float32)

    def without_quantization(self, names: Collection[str]) -> RestorationPlan:
        """The plan with these convolutions in float."""
        return replace(self, quantized={name: conv for name, conv in self.quantized.items() if name not in names})
