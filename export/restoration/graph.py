"""The pieces that restoration networks are written from: photograph, plain and modulated convolutions, styles and RGB.

A leaky ReLU is positively homogeneous. So the signals of a part of the network can be divided by one number: its first weights and all
its biases are. float16 has such a number for the encoder and another for the decoder (`RestorationPlan`). There, each convolution of the
decoder has weights of unit norm and a style of unit maximum. The demodulation undoes both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stylert.export.quantization.qdq import QdqBuilder
from stylert.export.restoration.plan import MAX_FLOAT16_SIGNAL, RestorationPlan
from stylert.export.signal_graph import SignalGraph
from stylert.models.restoration.gfpgan.config import RGB, DecoderLayer
from stylert.plugins.constants import DEMOD_EPS, LRELU_SLOPE
from stylert.plugins.onnx_functions import DOMAIN

#: Name of the network's input.
PHOTO = "photo"
#: The least number of output channels, and the greatest side, of a convolution that becomes an operator node. Such nodes can get
#: Winograd's form. In larger images its transforms cost more than they save, on processors with vectors of 512 bits.
MIN_OPERATOR_CHANNELS, MAX_OPERATOR_SIDE = 128, 128
#: Keeps the maximum of a style of zeros finite.
MIN_STYLE = 1e-12


@dataclass(frozen=True)
class ConvTensors:
    """A convolution that can be in 8 bits.

    Attributes:
        input: The tensor that it reads.
        output: The tensor that it writes.
        kernel_shape: The shape of its weights, `[O, I, k, k]`.
    """

    input: str
    output: str
    kernel_shape: tuple[int, ...]


@dataclass(frozen=True)
class Style:
    """The style of a modulated convolution.

    Attributes:
        factor: `[N, I]`, float32.
        demod: `[N, O]`, float32, with the gain of the layer.
    """

    factor: str
    demod: str


class RestorationGraph(SignalGraph):
    """A graph builder that knows the network's plan.

    Attributes:
        convolutions: The convolutions that can be in 8 bits, by name, in the order in which the network runs them.
        part: The part that is being written, "encoder" or "decoder".
        signals: The part of each tensor that `bounded` has seen.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], plan: RestorationPlan) -> None:
        super().__init__("restoration")
        self.arrays, self.plan = arrays, plan
        self.signal_type = plan.dtype
        self.qdq = QdqBuilder(self, plan.dtype)
        self.convolutions: dict[str, ConvTensors] = {}
        self.part = "encoder"
        self.signals: dict[str, str] = {}

    def array(self, name: str) -> np.ndarray:
        """A tensor of the checkpoint, float64."""
        return np.asarray(self.arrays[name], np.float64)

    def bounded(self, x: str) -> str:
        """A signal of float16 without the values that would overflow in the next layer."""
        self.signals[x] = self.part
        if not self.plan.float16:
            return x
        bounds = [self.constant(sign * MAX_FLOAT16_SIGNAL, np.float16) for sign in (-1, 1)]
        return self.node("Clip", [x, *bounds], f"{x}_bounded")

    def per_channel(self, vector: str) -> str:
        """float32 `[N, C]` as a signal `[N, C, 1, 1]`."""
        return self.as_signal(self.node("Unsqueeze", [vector, self.ints(2, 3)], f"{vector}_1"))

    def photograph(self, side: int) -> str:
        """The input, uint8 `[N, side, side, 3]`, as a signal `[N, 3, side, side]` in [-1, 1]. It is not divided by any scale."""
        self.input(PHOTO, ["N", side, side, RGB], np.uint8)
        x = self.node("Transpose", [PHOTO], "photo.nchw", perm=[0, 3, 1, 2])
        x = self.cast(x, "photo.float", np.float32)
        x = self.node("Mul", [x, self.constant(1 / 127.5)], "photo.scaled")
        return self.as_signal(self.node("Sub", [x, self.constant(1.0)], "photo.centred"))

    def activated(self, name: str, x: str, bias: np.ndarray | None) -> str:
        """Leaky ReLU of x plus a bias `[C]` that is already in the scale of x."""
        if bias is not None:
            x = self.node("Add", [x, self.signal(f"{name}.bias", bias[:, None, None])], f"{name}.biased")
        return self.bounded(self.node("LeakyRelu", [x], f"{name}.activated", alpha=LRELU_SLOPE))

    # --- convolutions ------------------------------------------------------------------------------------------------

    def conv(
        self, name: str, x: str, weight: np.ndarray, bias: np.ndarray, side: int, active: bool = True, stride: int = 1
    ) -> str:
        """A convolution of the encoder with its bias, and a leaky ReLU if it is active.

        Args:
            name: Name of the layer.
            x: `[N, I, H, W]`.
            weight: `[O, I, k, k]`, k odd.
            bias: `[O]`, in the scale of the signals.
            side: Side of the result, in pixels.
            active: Whether a leaky ReLU follows.
            stride: 1, or 2 for an input that was padded before.
        """
        if stride == 1 and self.is_operator(weight, side):
            ones = [self.constant(np.ones((1, channels))) for channels in (weight.shape[1], weight.shape[0])]
            return self.operator(name, x, weight, Style(*ones), None, bias, side, LRELU_SLOPE if active else 1.0)
        quantized = name in self.plan.quantized
        fused = None if quantized else bias  # runtimes would take an 8-bit convolution with a float bias out of 8 bits
        y = self.product(name, x, weight, fused, stride)
        if active:
            return self.activated(name, y, bias if quantized else None)
        return self.node("Add", [y, self.signal(f"{name}.bias", bias[:, None, None])], f"{name}.biased") if quantized else y

    def product(
        self,
        name: str,
        x: str,
        weight: np.ndarray,
        bias: np.ndarray | None = None,
        stride: int = 1,
        pads: list[int] | None = None,
    ) -> str:
        """The convolution alone, in the number format of its plan. By default the side stays, and with stride 2 nothing is padded."""
        if pads is None:
            pads = [weight.shape[2] // 2 if stride == 1 else 0] * 4
        inputs = [self._input(name, x), self._kernel(name, weight, 0)]
        inputs += [] if bias is None else [self.signal(f"{name}.bias", bias)]
        y = self.node("Conv", inputs, f"{name}.conv", pads=pads, strides=[stride] * 2)
        return self._output(name, ConvTensors(x, y, weight.shape))

    def transposed(self, name: str, x: str, weight: np.ndarray, pad: int) -> str:
        """The stride-2 transposed convolution with `weight` `[O, I, 3, 3]`, without `pad` pixels at each border."""
        inputs = [self._input(name, x), self._kernel(name, weight.transpose(1, 0, 2, 3), 1)]
        y = self.node("ConvTranspose", inputs, f"{name}.conv", strides=[2, 2], pads=[pad] * 4)
        return self._output(name, ConvTensors(x, y, weight.shape))

    def depthwise(
        self, name: str, x: str, taps: np.ndarray, channels: int, pads: list[int], bias: np.ndarray | None = None
    ) -> str:
        """The correlation of each channel with `taps` `[t, t]`, and a bias `[C]`."""
        inputs = [x, self.signal(f"{name}.taps", np.tile(taps, (channels, 1, 1, 1)))]
        inputs += [] if bias is None else [self.signal(f"{name}.bias", bias)]
        return self.node("Conv", inputs, name, pads=pads, group=channels)

    def _input(self, name: str, x: str) -> str:
        layer = self.plan.quantized.get(name)
        if layer is None:
            return x
        return self.qdq.dequantize(self.qdq.quantize(x, layer.input, f"{name}.in"), layer.input, f"{name}.in")

    def _kernel(self, name: str, weight: np.ndarray, axis: int) -> str:
        if name in self.plan.quantized:
            return self.qdq.int8_weight(weight, f"{name}.weight", axis)
        return self.signal(f"{name}.weight", weight)

    def _output(self, name: str, tensors: ConvTensors) -> str:
        self.convolutions[name] = tensors
        layer, y = self.plan.quantized.get(name), tensors.output
        if layer is None or layer.output is None:
            return y
        return self.qdq.dequantize(self.qdq.quantize(y, layer.output, f"{name}.out"), layer.output, f"{name}.out")

    def is_operator(self, weight: np.ndarray, side: int) -> bool:
        """Whether a float convolution with these weights, and a result of this side, is an operator node."""
        is_wide = weight.shape[0] >= MIN_OPERATOR_CHANNELS and side <= MAX_OPERATOR_SIDE
        return self.plan.operators and not self.plan.float16 and is_wide and weight.shape[2] == 3

    def operator(
        self,
        name: str,
        x: str,
        weight: np.ndarray,
        style: Style,
        noise: np.ndarray | None,
        bias: np.ndarray,
        side: int,
        alpha: float = LRELU_SLOPE,
        up: int = 1,
    ) -> str:
        """A layer as one ModulatedConv2d node. Noise `[H, W]` and bias `[O]` are added behind the gain of the demodulation."""
        outputs = weight.shape[0]
        taps = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
        inputs = [
            x,
            self.float32(f"{name}.weight", weight),
            style.factor,
            style.demod,
            self.constant(np.zeros((1, 1, 1, 1))) if noise is None else self.float32(f"{name}.noise", noise[None, None]),
            self.float32(f"{name}.bias", bias),
            self.constant(taps),
        ]
        self.shape(f"{name}.out", ["N", outputs, side, side])
        attributes = {"up": up, "alpha": alpha, "gain": 1.0, "clamp": 0.0, "group": outputs, "plugin_namespace": DOMAIN}
        return self.node("ModulatedConv2d", inputs, f"{name}.out", DOMAIN, **attributes)

    # --- the decoder -------------------------------------------------------------------------------------------------

    def style(self, name: str, w: str, affine: str, weight: np.ndarray, gain: float) -> tuple[Style, np.ndarray]:
        """The style of a modulated convolution, and the weights that belong to it.

        Args:
            name: Name of the layer.
            w: Its latent, float32 `[N, w_dim]`.
            affine: Name of the tensors from which the style is computed, with the gain `affine_gain` of their weights.
            weight: `[O, I, k, k]`.
            gain: A factor of the result.
        """
        s = self.affine(name, w, affine)
        energy = np.square(weight).sum((2, 3)).T
        squares = self.node("Mul", [s, s], f"{name}.style_squares")
        energies = self.node("MatMul", [squares, self.float32(f"{name}.energy", energy)], f"{name}.energies")
        root = self.node(
            "Sqrt", [self.node("Add", [energies, self.constant(DEMOD_EPS)], f"{name}.energies_eps")], f"{name}.root"
        )
        if not self.plan.float16:
            return Style(s, self.node("Div", [self.constant(gain), root], f"{name}.demod")), weight
        norm = np.sqrt(np.square(weight).sum((1, 2, 3)))
        norm = np.where(norm > 0, norm, 1.0)
        peak = self._peak(name, s)
        factor = self.node("Div", [s, peak], f"{name}.unit_style")
        scaled = self.node("Mul", [peak, self.float32(f"{name}.norm", norm[None] * gain)], f"{name}.norm_by_peak")
        return Style(factor, self.node("Div", [scaled, root], f"{name}.demod")), weight / norm[:, None, None, None]

    def affine(self, name: str, w: str, affine: str) -> str:
        """The style `[N, I]` of a latent, by the tensors `affine`."""
        weight, bias = self.array(f"{affine}.weight") * self.affine_gain(affine), self.array(f"{affine}.bias")
        inputs = [w, self.float32(f"{name}.affine.weight", weight), self.float32(f"{name}.affine.bias", bias)]
        return self.node("Gemm", inputs, f"{name}.style", transB=1)

    def affine_gain(self, affine: str) -> float:
        """The factor of the weights by which styles are computed. 1 unless a network says otherwise."""
        return 1.0

    def _peak(self, name: str, s: str) -> str:
        """The greatest magnitude of each sample's style, `[N, 1]`."""
        peak = self.node("ReduceMax", [self.node("Abs", [s], f"{name}.style_size"), self.ints(1)], f"{name}.peak", keepdims=1)
        return self.node("Max", [peak, self.constant(MIN_STYLE)], f"{name}.positive_peak")

    def to_rgb(self, layer: DecoderLayer, x: str, w: str, affine: str, weight: np.ndarray, bias: np.ndarray) -> str:
        """The RGB of a layer's features, float32 `[N, 3, R, R]`. Its weights `[3, I]` are multiplied by the style."""
        name, side = layer.name, layer.resolution
        s = self.affine(name, w, affine)
        rows = self.node("Unsqueeze", [s, self.ints(1)], f"{name}.style_1")
        weights = self.node("Mul", [rows, self.float32(f"{name}.weight", weight)], f"{name}.weights")
        peak = None
        if self.plan.float16:
            size = self.node("Abs", [weights], f"{name}.weights_size")
            peak = self.node("ReduceMax", [size, self.ints(1, 2)], f"{name}.weights_peak", keepdims=1)
            peak = self.node("Max", [peak, self.constant(MIN_STYLE)], f"{name}.positive_peak")
            # A product sums one value for each channel, so it stays below the greatest signal.
            peak = self.node("Mul", [peak, self.constant(float(weight.shape[1]))], f"{name}.peak_of_sums")
            weights = self.as_signal(self.node("Div", [weights, peak], f"{name}.unit_weights"))
        flat = self.node("Reshape", [x, self.ints(0, 0, -1)], f"{name}.flat")
        y = self.as_float32(self.node("MatMul", [weights, flat], f"{name}.matmul"))
        if peak is not None:
            scale = self.node("Mul", [peak, self.constant(self.plan.decoder_scale)], f"{name}.scale")
            y = self.node("Mul", [y, scale], f"{name}.scaled")
        y = self.node("Add", [y, self.float32(f"{name}.bias", bias.reshape(1, RGB, 1))], f"{name}.planes")
        return self.node("Reshape", [y, self.ints(0, 0, side, side)], name)


def equalised(weight: np.ndarray) -> np.ndarray:
    """Weights `[O, I, k, k]` times `1 / sqrt(fan_in)`."""
    return weight / math.sqrt(weight[0].size)
