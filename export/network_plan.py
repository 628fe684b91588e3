"""The plan of an exported network: the graph form, the migrated scales and the quantisation of each layer.

Plans are data. `default_plans.py` chooses a plan, `synthesis.py` writes its graph, and `tuning/search.py` looks for a faster
one. Every plan of one network computes the same images, but for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Literal, get_args

import numpy as np

from stylert.export.quantization.gptq import GptqRounder
from stylert.export.quantization.number_formats import INT8_MAX, UINT8_MAX
from stylert.models.checkpoint import GeneratorWeights
from stylert.models.stylegan2.config import GeneratorConfig, LayerSpec
from stylert.plugins.constants import ACTIVATION_GAIN

#: The forms of a modulated convolution, and those of torgb. `LayerPlan` describes them.
ConvForm = Literal["operator", "transposed", "phases", "separate_phases", "polyphase", "winograd_2x2", "winograd_4x4"]
RgbForm = Literal["matmul", "matmul_nhwc", "conv"]

#: The tile sizes of the forms that `plugins/winograd_rewrite.py` writes from operator nodes.
WINOGRAD_TILES: dict[str, int] = {"winograd_2x2": 2, "winograd_4x4": 4}

#: Bounds of the greatest constant that a float16 network adds to its activations. Activations may exceed it by the
#: gain of the layers, which is bounded (docs/decisions/export-fp16-bounded.md).
FLOAT16_CONSTANTS = (1 / 16, 256.0)

#: The least dynamic range of a sample, so that a tensor of zeros is not divided by zero.
MIN_DYNAMIC_RANGE = 1e-6


@dataclass(frozen=True, eq=False)
class Migration:
    """Scales that move between activations and weights. The layer's result stays the same.

    The input of the convolution is divided by `input_scale`, and its weights are multiplied by it (SmoothQuant, Xiao et
    al. 2022). The weights are also divided by `output_scale`. Demodulation is computed from the new weights, so it
    undoes this division.

    Attributes:
        input_scale: `[I]`, positive.
        output_scale: `[O]`, positive. It is 1 for torgb, which has no demodulation.
        input_power: `[I]`, the mean square of each input channel before modulation, or None. With it, each sample's
            style is normalised so that the modulated input has unit mean square. Without it, the style itself has unit
            mean square.
    """

    input_scale: np.ndarray
    output_scale: np.ndarray
    input_power: np.ndarray | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Migration) and all(
            np.array_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)
        )


@dataclass(frozen=True)
class QuantParams:
    """The quantisation of a tensor: `round(x / scale) + zero_point`.

    Attributes:
        scale: The difference between two neighbouring levels, positive.
        zero_point: The level of 0. It is 0 when symmetric.
        symmetric: Whether levels are int8, from -127 to 127. Otherwise they are uint8.
    """

    scale: float
    zero_point: int = 0
    symmetric: bool = True

    @classmethod
    def of_range(cls, low: float, high: float, symmetric: bool) -> QuantParams:
        """The parameters that cover [`low`, `high`]. The range must contain zero, and zero is quantised exactly."""
        if symmetric:
            return cls(max(float(max(-low, high)), 1e-12) / INT8_MAX)
        scale = max(float(high) - float(low), 1e-12) / UINT8_MAX
        return cls(scale, int(np.clip(np.rint(-low / scale), 0, UINT8_MAX)), symmetric=False)

    @property
    def levels(self) -> tuple[int, int]:
        """The least and the greatest value of `round(x / scale)`."""
        return (-INT8_MAX, INT8_MAX) if self.symmetric else (-self.zero_point, UINT8_MAX - self.zero_point)


@dataclass(frozen=True)
class Int8Quantization:
    """A convolution in 8-bit integers. Its weights are symmetric, with a scale per output channel.

    Attributes:
        input: The parameters of the tensor that the convolution reads.
        output: The parameters of the tensor that it writes, or None where that tensor stays float. With an output, the
            FIR after a transposed convolution has its taps in 8 bits, too.
        negative_ratio: None for a fixed range. Otherwise the graph measures the dynamic range of each sample: the
            smallest r for which all inputs lie in [-`negative_ratio` * r, r]. `input` and `output` are then in units of
            r.
        fold_modulation: Whether the quantisation nodes apply the style and the demodulation. QuantizeLinear then
            divides by scale / style, and DequantizeLinear multiplies by scale * demodulation, for each channel of each
            sample. This saves two passes over the activations, in runtimes that accept computed scales.
        rounder: Rounds the weights. With None, each weight takes the nearest integer.
        limit_pairs: Whether the weights are so small that no processor's products of bytes saturate
            (`stylert.core.machine.byte_products`). Most output channels then have 1.1 to 1.3 times as large a step.
    """

    input: QuantParams
    output: QuantParams | None = None
    negative_ratio: float | None = None
    fold_modulation: bool = False
    rounder: GptqRounder | None = None
    limit_pairs: bool = False


@dataclass(frozen=True)
class Fp8Quantization:
    """A convolution in E4M3 (Micikevicius et al. 2022). Its weights have a scale per output channel.

    Attributes:
        input_scale: The input is divided by it and then rounded to four significant bits, from 2^-6 to 448.
        rounder: Rounds the weights. With None, each weight takes the nearest number.
    """

    input_scale: float
    rounder: GptqRounder | None = None


@dataclass(frozen=True)
class LayerPlan:
    """The form, the scales and the quantisation of one layer.

    Forms of a modulated convolution. A layer without upsampling is the same plain convolution in `transposed`, both forms
    of phases and `polyphase`:

    - `operator`: one ModulatedConv2d node of the `stylert` domain.
    - `transposed`: a stride-2 transposed convolution, then the FIR.
    - `phases`: one 2x2 convolution to four phases and a depth-to-space, then the FIR. All arithmetic is in an ordinary
      convolution, and every backend has that in INT8.
    - `separate_phases`: the same by four convolutions of 2x2, 2x1, 1x2 and 1x1 taps, and a depth-to-space, then the FIR.
      It has no multiplications by zero, and is for float layers alone.
    - `polyphase`: one 3x3 convolution to four phases with the FIR folded into its weights, and a depth-to-space. It has
      twice the multiplications of `phases`, but no pass for the FIR.
    - `winograd_2x2`, `winograd_4x4`: Winograd's form of the 3x3 kernels, or of the four polyphase kernels
      (`plugins/winograd_nodes.py`). It has 2.25 times or 4 times fewer multiplications, and is for float32 alone: its
      intermediate values are up to 100 times as large as activations.

    Forms of torgb. Only `conv` can be quantised:

    - `matmul`: a batched product of the weights times the style with the activations `[N, C, H W]`.
    - `matmul_nhwc`: the same with the activations `[N, H W, C]`, for backends that keep them channels last.
    - `conv`: a constant 1x1 convolution of the modulated activations, for compilers that fuse the modulation.
    """

    form: ConvForm | RgbForm = "operator"
    migration: Migration | None = None
    quantization: Int8Quantization | Fp8Quantization | None = None

    def __post_init__(self) -> None:
        if self.quantization is not None and self.form in WINOGRAD_TILES:
            raise ValueError(f"the form {self.form} is for float32 layers")
        if self.quantization is not None and self.form == "separate_phases":
            raise ValueError(f"the form {self.form} is for float layers")

    @property
    def is_operator(self) -> bool:
        """Whether the layer is written as an operator node. Winograd's forms are made from it afterwards."""
        return self.form == "operator" or self.form in WINOGRAD_TILES

    @property
    def int8(self) -> Int8Quantization | None:
        return self.quantization if isinstance(self.quantization, Int8Quantization) else None

    @property
    def fp8(self) -> Fp8Quantization | None:
        return self.quantization if isinstance(self.quantization, Fp8Quantization) else None

    def without_quantization(self) -> LayerPlan:
        """The same form in the float type of the network.

        A convolution keeps its migration, which costs nothing. torgb loses it: its style norm would be a pass over the
        image.
        """
        return LayerPlan(self.form, None if self.form in get_args(RgbForm) else self.migration)


@dataclass(frozen=True)
class NetworkPlan:
    """The plan of a synthesis network.

    Attributes:
        layers: Plans by layer name. A convolution without one is an operator node, and a torgb without one has
            `rgb_form`.
        float16: Whether convolutions compute in float16. `float16_plan` gives migrations that bound their gain.
        activation_scale: All activations are divided by it, and the results of torgb are multiplied by it. A power of two.
        rgb_form: The form of every torgb that `layers` does not name.
        per_sample_bias: Whether each plain convolution's bias is computed with the styles, although it is constant.
            OpenVINO would add a constant bias to the constant noise, and then store noise for every channel.
        split_styles: Whether styles, demodulations and biases of all layers are outputs of a few Split nodes. OpenVINO then
            has them in front of every layer, and one pass over an activation multiplies it by the styles of all its readers.
    """

    layers: Mapping[str, LayerPlan] = field(default_factory=dict)
    float16: bool = False
    activation_scale: float = 1.0
    rgb_form: RgbForm = "matmul"
    per_sample_bias: bool = False
    split_styles: bool = False

    def __post_init__(self) -> None:
        if self.float16 and any(layer.form in WINOGRAD_TILES for layer in self.layers.values()):
            raise ValueError("Winograd's forms are for float32 networks")

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """The type of the activations, of the convolutions' float weights, and of the quantisation scales."""
        return np.dtype(np.float16 if self.float16 else np.float32)

    @property
    def quantized_layers(self) -> list[str]:
        return [name for name, layer in self.layers.items() if layer.quantization is not None]

    def layer(self, spec: LayerSpec) -> LayerPlan:
        return self.layers.get(spec.name, LayerPlan(self.rgb_form if spec.kind == "torgb" else "operator"))

    def without_quantization(self, names: Collection[str]) -> NetworkPlan:
        """The plan with these layers in the float type of the network."""
        layers = {n: layer.without_quantization() if n in names else layer for n, layer in self.layers.items()}
        return replace(self, layers=layers)

    def with_limited_pairs(self) -> NetworkPlan:
        """The plan with int8 weights whose products do not saturate on any processor."""
        layers = {
            name: layer if layer.int8 is None else replace(layer, quantization=replace(layer.int8, limit_pairs=True))
            for name, layer in self.layers.items()
        }
        return replace(self, layers=layers)


def conv_layers(cfg: GeneratorConfig) -> list[LayerSpec]:
    """The modulated convolutions, without torgb."""
    return [spec for spec in cfg.layers() if spec.kind == "conv"]


def rgb_layers(cfg: GeneratorConfig) -> list[LayerSpec]:
    """The torgb layers."""
    return [spec for spec in cfg.layers() if spec.kind == "torgb"]


def float32_plan(cfg: GeneratorConfig, form: ConvForm, rgb_form: RgbForm = "matmul") -> NetworkPlan:
    """Every convolution in one form, float32."""
    return NetworkPlan({spec.name: LayerPlan(form) for spec in conv_layers(cfg)}, rgb_form=rgb_form)


def float16_plan(weights: GeneratorWeights, form: ConvForm = "operator", rgb_form: RgbForm = "matmul") -> NetworkPlan:
    """Every convolution in one form, float16. Its gain is bounded for every ws.

    The weights of each output channel get unit norm, and every style has unit mean square (`styles.py`). So a
    convolution returns values of the same size as those that it reads. Karras et al. 2020b, appendix D, does the same
    with maxima at run time. Very large or small constants, biases and noise are scaled (`activation_scale`).
    """
    layers = {}
    for spec in conv_layers(weights.config):
        weight = weights.arrays[f"synthesis.{spec.name}.weight"].astype(np.float64)
        norm = np.sqrt(np.square(weight).sum((1, 2, 3)))
        migration = Migration(np.ones(spec.in_channels), np.where(norm > 0, norm, 1.0))
        layers[spec.name] = LayerPlan(form, migration)
    return NetworkPlan(layers, float16=True, activation_scale=_activation_scale(weights), rgb_form=rgb_form)


def _activation_scale(weights: GeneratorWeights) -> float:
    """The power of two that brings the greatest of constant, biases and noise within `FLOAT16_CONSTANTS`."""
    arrays = weights.arrays
    largest = float(np.abs(arrays["synthesis.b4.const"]).max())
    for spec in conv_layers(weights.config):
        name = f"synthesis.{spec.name}"
        noise = np.abs(arrays[f"{name}.noise_const"]).max() * np.abs(arrays[f"{name}.noise_strength"], dtype=np.float64)
        bias = np.abs(arrays[f"{name}.bias"]).max(initial=0.0)
        largest = max(largest, ACTIVATION_GAIN["lrelu"] * float(max(noise, bias)))
    return power_of_two_scale(largest, FLOAT16_CONSTANTS)


def power_of_two_scale(largest: float, bounds: tuple[float, float]) -> float:
    """The power of two nearest to 1 that `largest` is divided by to lie within `bounds`. It is 1 for zero."""
    low, high = bounds
    if largest > high:
        return 2.0 ** math.ceil(math.log2(largest / high))
    if 0 < largest < low:
        return 2.0 ** math.floor(math.log2(largest / low))
    return 1.0
