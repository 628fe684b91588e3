"""StyleGAN1's synthesis network as an ONNX model, without torch: ws (and noise) to images.

The network is written layer by layer from `GeneratorConfig.layers`. Constants are folded: gains of weights, the four shifts
of an upsampling kernel, and the constant at 4 px with its noise and its instance norm. The batch is dynamic. All nodes are
ONNX's own.

    x * kernel      the convolution, and the blur of an upsampling layer
    + noise + bias
    leaky ReLU
    (x - mean) * (scale / deviation) + offset        AdaIN; the statistics are in float32

Signals of unit size (`NetworkPlan.unit_signals`): instance norm undoes any scale of its input. So the output channels of a
convolution have weights of unit norm, and its input, its noise and its bias are divided by one number t for each sample:

    t^2 = mean over channels of (scale^2 + offset^2) + (greatest bias or strength)^2

The first term is the mean square of the input. So both input and constants are at most of unit size, whatever w is. No
signal can then overflow in float16: an instance-normalised channel has at most the norm of its number of pixels.

A layer in 8 bits may have a range for each sample (`Int8Quantization.negative_ratio`). Its input is then divided by that
range in the same way, and instance norm undoes it.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import partial

import numpy as np
import onnx

from stylert.export.image_output import OutputType, image_output
from stylert.export.network_plan import MIN_DYNAMIC_RANGE
from stylert.export.quantization.number_formats import RoundKernel, round_to_nearest
from stylert.export.quantization.qdq import QdqBuilder
from stylert.export.signal_graph import SignalGraph
from stylert.export.stylegan1_kernels import phase_kernels, round_phases, transposed_kernel
from stylert.export.stylegan1_plan import NetworkPlan
from stylert.export.synthesis_graph import NoiseInput
from stylert.models.checkpoint import Stylegan1Weights
from stylert.models.stylegan1.config import BLUR_TAPS, LayerSpec
from stylert.plugins.constants import ACTIVATION_GAIN, LRELU_SLOPE

#: The greatest factor of a channel in float16. A channel that needs more is flat, but for rounding.
MAX_FLOAT16_FACTOR = 60000.0


#: The least size t of a signal, so that a signal of zeros is not divided by zero.
MIN_SIZE = 1e-6


def noise_name(spec: LayerSpec) -> str:
    """The name of a layer's noise input, `noise_<resolution>_<layer>`."""
    return f"noise_{spec.resolution}_{spec.name.split('.')[1]}"


def synthesis_model(
    weights: Stylegan1Weights,
    plan: NetworkPlan | None = None,
    noise: NoiseInput = "const",
    output: OutputType = "uint8",
    observe: Collection[str] = (),
) -> onnx.ModelProto:
    """Write the synthesis network.

    Args:
        weights: The generator.
        plan: The plan. By default everything is in float32.
        noise: Where the noise comes from.
        output: The type of the images.
        observe: Names of convolutions. For each the model also returns its input `<layer>.in` and output `<layer>.conv`.

    Returns:
        A model from ws `[N, num_ws, w_dim]` to `image`, uint8 `[N, R, R, C]` or float32 `[N, C, R, R]`. With noise
        inputs it also takes `noise_<resolution>_<layer>` `[N, 1, R, R]` for each layer but torgb.

    Raises:
        CheckpointError: float16 cannot hold a constant of the network.
    """
    cfg = weights.config
    g = SynthesisGraph(weights, plan or NetworkPlan(), noise, observe)
    g.input("ws", ["N", cfg.num_ws, cfg.w_dim])
    *layers, torgb = cfg.layers()
    if noise == "input":
        for spec in layers:
            g.input(noise_name(spec), ["N", 1, spec.resolution, spec.resolution])
    x = _styled_constant(g, layers[0], layers[1])
    for spec, reader in zip(layers[1:], [*layers[2:], torgb], strict=True):
        y = _convolution(g, spec, x)
        y = _noise_and_bias(g, spec, y)
        y = g.node("LeakyRelu", [y], f"{spec.name}.activated", alpha=LRELU_SLOPE)
        x = _adain(g, spec, y, reader)
    image_output(g, _to_rgb(g, torgb, x), (cfg.img_channels, cfg.height, cfg.width), output)
    for name in observe:
        g.output(f"{name}.in", ["N", None, None, None], g.plan.dtype)
        g.output(f"{name}.conv", ["N", None, None, None], g.plan.dtype)
    return g.model()


class SynthesisGraph(SignalGraph):
    """A graph builder that knows the network's weights, noise and plan."""

    def __init__(self, weights: Stylegan1Weights, plan: NetworkPlan, noise: NoiseInput, observe: Collection[str] = ()) -> None:
        super().__init__("synthesis")
        self.cfg, self.arrays, self.plan, self.noise = weights.config, weights.arrays, plan, noise
        self.signal_type = plan.dtype
        self.observe = observe
        self.qdq = QdqBuilder(self, plan.dtype)
        #: 1 / t `[N, 1]` of each layer whose signal is divided by a t, by its name.
        self.inverse_sizes: dict[str, str] = {}
        self._zero: str | None = None

    def array(self, name: str) -> np.ndarray:
        """A tensor of the checkpoint, by its name under `synthesis.`, float64."""
        return np.asarray(self.arrays[f"synthesis.{name}"], np.float64)

    def kernel(self, spec: LayerSpec) -> np.ndarray:
        """`[O, I, k, k]` with the gain and the migrated scale, before it gets unit norms."""
        gain = 1.0 if spec.kind == "torgb" else ACTIVATION_GAIN["lrelu"]
        weight = self.array(f"{spec.name}.weight")
        weight = weight * (gain / math.sqrt(weight[0].size))
        layer = self.plan.quantized.get(spec.name)
        return weight if layer is None else weight * layer.input_scale[None, :, None, None]

    def channel_scales(self, spec: LayerSpec) -> np.ndarray:
        """`[O]`, by which the output channels of a convolution are multiplied."""
        if not self.plan.unit_signals:
            return np.ones(spec.out_channels)
        norms = np.sqrt(np.square(self.kernel(spec)).sum((1, 2, 3)))
        if spec.kind == "torgb":  # its result is not normalised, so one scale is undone behind it
            norms[:] = norms.max()
        return np.where(norms > 0, 1 / np.where(norms > 0, norms, 1), 1.0)

    def per_channel(self, vector: str) -> str:
        """`[N, C]`, float32, as `[N, C, 1, 1]` in the type of the signals."""
        return self.as_signal(self.node("Unsqueeze", [vector, self.ints(2, 3)], f"{vector}_1"))

    def per_sample(self, spec: LayerSpec, name: str, values: np.ndarray) -> str:
        """Constants of a layer `[C]` as `[N, C]`, divided by the size of each sample's signal.

        They depend on ws by name even where the size is 1. Runtimes fold constants, and would store noise for every channel.
        """
        constant = self.float32(name, values[None])
        if spec.name in self.inverse_sizes:
            return self.node("Mul", [constant, self.inverse_sizes[spec.name]], f"{name}_by_size")
        if self._zero is None:
            first = self.node("Slice", ["ws", self.ints(0, 0), self.ints(1, 1), self.ints(1, 2)], "first_of_ws")
            first = self.node("Reshape", [first, self.ints(-1, 1)], "first_of_ws_1")
            self._zero = self.node("Mul", [first, self.constant(0.0)], "zero_of_ws")
        return self.node("Add", [constant, self._zero], f"{name}_of_samples")


# --- signals ---------------------------------------------------------------------------------------------------------


def _styled_constant(g: SynthesisGraph, spec: LayerSpec, reader: LayerSpec) -> str:
    """The first layer. Without noise inputs, all of it but its style is a constant."""
    name = spec.name
    x = g.array(f"{name}.const")[None] + g.array(f"{name}.bias")[:, None, None]
    strength = g.array(f"{name}.noise_strength")[:, None, None]
    if g.noise == "input":
        scaled = g.node("Mul", [noise_name(spec), g.float32(f"{name}.strength", strength)], f"{name}.noise")
        y = g.node("Add", [scaled, g.float32(f"{name}.const", x)], f"{name}.noisy")
        y = g.node("LeakyRelu", [y], f"{name}.activated", alpha=LRELU_SLOPE)
        centred, variance = _statistics(g, name, y)
        normalized = g.node("Div", [centred, _deviation(g, spec, variance)], f"{name}.normalized")
    else:
        if g.noise == "const":
            x = x + g.array(f"{name}.noise_const") * strength
        x = np.where(x > 0, x, LRELU_SLOPE * x)
        x = x - x.mean((2, 3), keepdims=True)
        x = x / np.sqrt(np.square(x).mean((2, 3), keepdims=True) + g.cfg.norm_eps)
        normalized = g.float32(f"{name}.normalized", x)
    return g.as_signal(_styled(g, spec, normalized, None, reader))


def _noise_and_bias(g: SynthesisGraph, spec: LayerSpec, y: str) -> str:
    """Noise, and the bias unless the convolution or the blur has added it."""
    name, scales = spec.name, g.channel_scales(spec)
    if g.noise != "none":
        strength = g.per_sample(spec, f"{name}.strength", g.array(f"{name}.noise_strength") * scales)
        if g.noise == "const":
            plane = g.signal(f"{name}.noise_const", g.array(f"{name}.noise_const")[None, None])
        else:
            plane = g.as_signal(noise_name(spec))
        noise = g.node("Mul", [plane, g.per_channel(strength)], f"{name}.noise")
        y = g.node("Add", [y, noise], f"{name}.noisy")
    if _constant_bias(g, spec) is None and not _bias_before_blur(g, spec):
        y = g.node("Add", [y, g.per_channel(_scaled_bias(g, spec))], f"{name}.biased")
    return y


def _adain(g: SynthesisGraph, spec: LayerSpec, y: str, reader: LayerSpec) -> str:
    """Instance norm and style, in the scale that the next layer reads."""
    name = spec.name
    centred, variance = _statistics(g, name, y)
    deviation = _deviation(g, spec, variance)
    return _styled(g, spec, centred, deviation, reader)


def _deviation(g: SynthesisGraph, spec: LayerSpec, variance: str) -> str:
    """`sqrt(variance + eps)`, `[N, C, 1, 1]`. The epsilon belongs to the signal in its own size.

    It is the square of its root, because runtimes take the addition of a constant near zero away.
    """
    name = spec.name
    scales = np.ones(spec.out_channels) if spec.kind == "const" else g.channel_scales(spec)
    root = g.per_sample(spec, f"{name}.root_eps", math.sqrt(g.cfg.norm_eps) * scales)
    epsilon = g.node("Unsqueeze", [g.node("Mul", [root, root], f"{name}.eps"), g.ints(2, 3)], f"{name}.eps_1")
    return g.node("Sqrt", [g.node("Add", [variance, epsilon], f"{name}.variance_eps")], f"{name}.deviation")


def _styled(g: SynthesisGraph, spec: LayerSpec, x: str, deviation: str | None, reader: LayerSpec) -> str:
    """`x * scale / deviation + offset`. The first layer has no deviation any more, and stays in float32."""
    name = spec.name
    factor, offset = (g.node("Unsqueeze", [part, g.ints(2, 3)], f"{part}_1") for part in _style(g, spec, reader))
    if deviation is not None:
        factor = g.node("Div", [factor, deviation], f"{name}.factor")
    layer = g.plan.quantized.get(reader.name)
    if layer is not None and layer.int8.negative_ratio is not None:
        sample_range = _sample_range(g, name, x, factor, offset, layer.int8.negative_ratio)
        inverse = g.node("Reciprocal", [sample_range], f"{name}.inverse_range")
        g.inverse_sizes[reader.name] = g.node("Reshape", [inverse, g.ints(-1, 1)], f"{name}.inverse_range_1")
        factor = g.node("Mul", [factor, inverse], f"{name}.factor_by_range")
        offset = g.node("Mul", [offset, inverse], f"{name}.offset_by_range")
    if deviation is not None:
        if g.plan.float16:
            bounds = [g.constant(-MAX_FLOAT16_FACTOR), g.constant(MAX_FLOAT16_FACTOR)]
            factor = g.node("Clip", [factor, *bounds], f"{name}.bounded_factor")
        factor, offset = g.as_signal(factor), g.as_signal(offset)
    return g.node("Add", [g.node("Mul", [x, factor], f"{name}.scaled"), offset], f"{name}.out")


def _sample_range(g: SynthesisGraph, name: str, x: str, factor: str, offset: str, negative_ratio: float) -> str:
    """`[N, 1, 1, 1]`: the smallest r for which `x * factor + offset` lies in [-`negative_ratio` * r, r].

    The extremes of a channel give those behind the style. So one pass over `x` finds the range.
    """
    flat = g.node("Reshape", [x, g.ints(0, 0, -1, 1)], f"{name}.flat")  # ONNX Runtime reduces one axis faster than two
    ends = []
    for op, end in (("ReduceMax", "highest"), ("ReduceMin", "lowest")):
        extreme = g.node(op, [flat, g.ints(2)], f"{name}.{end}", keepdims=1)
        scaled = g.node("Mul", [extreme, factor], f"{name}.{end}_scaled")
        ends.append(g.node("Add", [scaled, offset], f"{name}.{end}_styled"))
    # A negative factor swaps the two extremes of its channel.
    top = g.node("ReduceMax", [g.node("Max", ends, f"{name}.tops"), g.ints(1)], f"{name}.top", keepdims=1)
    bottom = g.node("ReduceMin", [g.node("Min", ends, f"{name}.bottoms"), g.ints(1)], f"{name}.bottom", keepdims=1)
    below = g.node("Mul", [bottom, g.constant(-1 / negative_ratio)], f"{name}.below")
    return g.node("Max", [top, below, g.constant(MIN_DYNAMIC_RANGE)], f"{name}.range")


def _statistics(g: SynthesisGraph, name: str, y: str) -> tuple[str, str]:
    """`y` without the mean of each channel, and the variances `[N, C, 1, 1]` in float32.

    The mean is taken off first. The difference of two mean squares would lose small variances beside large means.
    """
    is_float16 = g.plan.float16 and name != "b4.input"
    mean = g.node("ReduceMean", [g.as_float32(y) if is_float16 else y, g.ints(2, 3)], f"{name}.mean", keepdims=1)
    centred = g.node("Sub", [y, g.as_signal(mean) if is_float16 else mean], f"{name}.centred")
    exact = g.as_float32(centred) if is_float16 else centred
    squares = g.node("Mul", [exact, exact], f"{name}.squares")
    return centred, g.node("ReduceMean", [squares, g.ints(2, 3)], f"{name}.variance", keepdims=1)


def _style(g: SynthesisGraph, spec: LayerSpec, reader: LayerSpec) -> tuple[str, str]:
    """Factors and offsets `[N, C]` of a layer's channels, in float32, in the scale that the next layer reads."""
    name = spec.name
    weight, bias = g.array(f"{name}.affine.weight") / math.sqrt(g.cfg.w_dim), g.array(f"{name}.affine.bias")
    w = g.node("Gather", ["ws", g.constant(spec.ws_index, np.int64)], f"{name}.w", axis=1)
    inputs = [w, g.float32(f"{name}.affine.weight", weight), g.float32(f"{name}.affine.bias", bias)]
    style = g.node("Gemm", inputs, f"{name}.style", transB=1)
    if g.plan.unit_signals:
        squares = g.node("ReduceMean", [g.node("Mul", [style, style], f"{name}.style_squares"), g.ints(1)], f"{name}.power")
        power = g.node("Mul", [squares, g.constant(2.0)], f"{name}.mean_square")  # two numbers for each channel
        power = g.node("Add", [power, g.constant(_constant_peak(g, reader) ** 2)], f"{name}.size_square")
        power = g.node("Max", [power, g.constant(MIN_SIZE**2)], f"{name}.positive_size_square")
        g.inverse_sizes[reader.name] = g.node("Reciprocal", [g.node("Sqrt", [power], f"{name}.size")], f"{name}.inverse_size")
        style = g.node("Mul", [style, g.inverse_sizes[reader.name]], f"{name}.unit_style")
    layer = g.plan.quantized.get(reader.name)
    if layer is not None:
        migrated = np.tile(1 / layer.input_scale, 2)[None]
        style = g.node("Mul", [style, g.float32(f"{name}.migration", migrated)], f"{name}.migrated_style")
    halves = [f"{name}.scale", f"{name}.offset"]
    g.split(style, halves, spec.out_channels)
    return halves[0], halves[1]


def _constant_peak(g: SynthesisGraph, spec: LayerSpec) -> float:
    """The greatest constant that is added to a layer's signal, after its output channels are scaled."""
    if spec.kind == "torgb":
        return 0.0
    constants = np.stack([g.array(f"{spec.name}.bias"), g.array(f"{spec.name}.noise_strength")])
    return float(np.abs(constants * g.channel_scales(spec)).max())


# --- convolutions ----------------------------------------------------------------------------------------------------


def _convolution(g: SynthesisGraph, spec: LayerSpec, x: str) -> str:
    """A layer's convolution with its blur. It adds the bias where the bias is a constant for all samples."""
    name = spec.name
    kernel = g.kernel(spec) * g.channel_scales(spec)[:, None, None, None]
    bias = _constant_bias(g, spec)
    if spec.up == 1:
        return _conv(g, spec, x, kernel, bias)
    before = _bias_before_blur(g, spec)
    if g.plan.up_form == "transposed":
        y = _conv(g, spec, x, transposed_kernel(kernel).transpose(1, 0, 2, 3), bias if before else None)
    else:
        # The phases have one row and column more on each side. The blur takes zeros there.
        y = _conv(g, spec, x, phase_kernels(kernel), np.tile(bias, 4) if before and bias is not None else None)
        y = g.node("DepthToSpace", [y], f"{name}.shuffled", blocksize=2, mode="DCR")
        y = g.node("Slice", [y, g.ints(1, 1), g.ints(-1, -1), g.ints(2, 3)], f"{name}.cropped")
    if before and bias is None:
        y = g.node("Add", [y, g.per_channel(_scaled_bias(g, spec))], f"{name}.biased")
    taps = np.tile(np.outer(BLUR_TAPS, BLUR_TAPS) / sum(BLUR_TAPS) ** 2, (spec.out_channels, 1, 1, 1))
    inputs = [y, g.signal(f"{name}.blur", taps)]
    if bias is not None and not before:
        inputs.append(g.signal(f"{name}.bias", bias))
    return g.node("Conv", inputs, f"{name}.blurred", pads=[1] * 4, group=spec.out_channels)


def _conv(g: SynthesisGraph, spec: LayerSpec, x: str, kernel: np.ndarray, bias: np.ndarray | None) -> str:
    """The convolution of a layer in its number format. `kernel` is `[I, O, 4, 4]` for a transposed one."""
    name, layer = spec.name, g.plan.quantized.get(spec.name)
    is_transposed = spec.up == 2 and g.plan.up_form == "transposed"
    if name in g.observe:
        x = g.node("Identity", [x], f"{name}.in")
    if layer is None:
        weight = g.signal(f"{name}.weight", kernel)
    else:
        int8, axis = layer.int8, int(is_transposed)
        x = g.qdq.dequantize(g.qdq.quantize(x, int8.input, f"{name}.in"), int8.input, f"{name}.in")
        round_kernel: RoundKernel = round_to_nearest
        if int8.rounder is not None:
            round_kernel = partial(round_phases, int8.rounder) if is_transposed else int8.rounder
        quantize = g.qdq.int8_weight_of_limited_pairs if int8.limit_pairs else g.qdq.int8_weight
        weight = quantize(kernel, f"{name}.weight", axis, round_kernel=round_kernel)
    inputs = [x, weight] if bias is None else [x, weight, g.signal(f"{name}.bias", bias)]
    if is_transposed:
        y = g.node("ConvTranspose", inputs, f"{name}.conv", strides=[2, 2], pads=[1] * 4)
    else:
        pad = 1 if kernel.shape[2] > 1 else 0
        y = g.node("Conv", inputs, f"{name}.conv", pads=[pad] * 4)
    if layer is None or layer.int8.output is None:
        return y
    return g.qdq.dequantize(g.qdq.quantize(y, layer.int8.output, f"{name}.out"), layer.int8.output, f"{name}.out")


def _to_rgb(g: SynthesisGraph, spec: LayerSpec, x: str) -> str:
    """torgb, with its result in float32 and in its own size."""
    name, scale = spec.name, g.channel_scales(spec)[0]
    y = g.node("Conv", [x, g.signal(f"{name}.weight", g.kernel(spec) * scale)], f"{name}.conv")
    y = g.as_float32(y)
    if g.plan.unit_signals:
        inverse = g.node("Mul", [g.inverse_sizes[name], g.constant(scale)], f"{name}.inverse_size")
        y = g.node("Div", [y, g.node("Unsqueeze", [inverse, g.ints(2, 3)], f"{name}.inverse_size_1")], f"{name}.sized")
    return g.node("Add", [y, g.float32(f"{name}.bias", g.array(f"{name}.bias")[:, None, None])], name)


def _bias_before_blur(g: SynthesisGraph, spec: LayerSpec) -> bool:
    return spec.up == 2 and g.cfg.bias_before_blur


def _constant_bias(g: SynthesisGraph, spec: LayerSpec) -> np.ndarray | None:
    """The bias `[O]` that a convolution or a blur adds, or None where samples have their own.

    The convolution of a quantised layer has none: runtimes would take it out of 8 bits. Nor has an observed one.
    """
    is_alone = spec.name in g.plan.quantized or spec.name in g.observe
    in_conv = spec.up == 1 or g.cfg.bias_before_blur
    return None if spec.name in g.inverse_sizes or (is_alone and in_conv) else g.array(f"{spec.name}.bias")


def _scaled_bias(g: SynthesisGraph, spec: LayerSpec) -> str:
    """The bias of each sample, `[N, O]`."""
    return g.per_sample(spec, f"{spec.name}.bias", g.array(f"{spec.name}.bias") * g.channel_scales(spec))
