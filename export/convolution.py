"""The modulated convolution of one layer, as nodes in the form and the number format of its plan.

`operator` is one node of the `stylert` domain. The plain forms are standard operators, in this order:

    style, demod       divided and multiplied by the dynamic range of the sample, if the plan has a `negative_ratio`
    x * style          modulate
    convolve           in float, int8 or E4M3; upsampling forms continue with depth-to-space or the FIR
    * demod            demodulate
    + noise + bias     each with the activation's gain
    leaky ReLU, clamp

With folded modulation, the quantisation nodes around the convolution multiply by style and demod.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from stylert.export.network_plan import MIN_DYNAMIC_RANGE
from stylert.export.phase_weights import phase_weights, polyphase_weights
from stylert.export.quantization.number_formats import round_to_nearest
from stylert.export.quantization.qdq import ChannelFactor
from stylert.export.styles import ConvStyle
from stylert.export.synthesis_graph import SynthesisGraph
from stylert.models.stylegan2.config import LayerSpec
from stylert.plugins.constants import LRELU_SLOPE
from stylert.plugins.onnx_functions import DOMAIN

#: The FIR's taps are 1, 3 and 9 sixteenths. With this peak they become 14, 42 and 126, which is exact.
FIR_INT8_PEAK = 126

#: The even and the odd outputs of a stride-2 transposed convolution with three taps, on one axis: the taps as a correlation,
#: and the padding in front and behind.
PHASE_AXES = (("even", slice(None, None, -2), (1, 1)), ("odd", slice(1, 2), (0, 1)))


def noise_name(spec: LayerSpec) -> str:
    """The name of a layer's noise input, `noise_<resolution>_<layer>`."""
    return f"noise_{spec.resolution}_{spec.name.split('.')[1]}"


def modulated_conv(g: SynthesisGraph, spec: LayerSpec, x: str, style: ConvStyle) -> str:
    """Add one modulated convolution.

    Args:
        g: The graph.
        spec: The layer.
        x: `[N, I, H, W]`.
        style: The layer's tensors of `style_nodes`.

    Returns:
        The tensor `[N, O, H, W]` of the layer's size. It has the layer's name.
    """
    if g.plan.layer(spec).is_operator:
        return _operator_node(g, spec, x, style)
    return _plain_nodes(g, spec, x, style)


def _operator_node(g: SynthesisGraph, spec: LayerSpec, x: str, style: ConvStyle) -> str:
    name = spec.name
    g.shape(name, ["N", spec.out_channels, spec.height, spec.width], g.plan.dtype)
    # The operator multiplies by the gain itself, so noise and bias come without it.
    noise = g.activation_constant(np.zeros((1, 1, 1, 1))) if g.noise == "none" else _noise(g, spec, gain=1.0)
    weight = g.activation_weight(f"{name}.weight", g.constants[name].weight)
    bias = g.activation_weight(f"{name}.bias", g.activation_bias(spec))
    return g.node(
        "ModulatedConv2d",
        [x, weight, style.style, style.demod, noise, bias, g.fir_weight],
        name,
        DOMAIN,
        up=spec.up,
        alpha=LRELU_SLOPE,
        gain=g.gain(spec),
        clamp=float(g.clamp(spec) or 0),
        group=spec.out_channels,
        plugin_namespace=DOMAIN,
    )


def _plain_nodes(g: SynthesisGraph, spec: LayerSpec, x: str, style: ConvStyle) -> str:
    name, plan, int8 = spec.name, g.plan.layer(spec), g.plan.layer(spec).int8
    if int8 is not None and int8.negative_ratio is not None:
        style = _divide_by_dynamic_range(g, name, x, style, int8.negative_ratio)
    fold_modulation = int8 is not None and int8.fold_modulation
    fold_demodulation = int8 is not None and int8.fold_modulation and int8.output is not None
    # The bias is added after demodulation. A FIR that comes after demodulation, too, can add it in its own convolution.
    has_fir = spec.up == 2 and plan.form != "polyphase"
    fir_bias = g.activation_weight(f"{name}.bias", g.bias(spec)) if fold_demodulation and has_fir else None

    y = x if fold_modulation else g.node("Mul", [x, g.per_channel(style.style)], f"{name}.modulated")
    y = _convolution_and_fir(g, spec, y, style if fold_modulation else None, fir_bias)
    if not fold_demodulation:
        y = g.node("Mul", [y, g.per_channel(style.demod)], f"{name}.demodulated")
    if g.noise != "none":
        y = g.node("Add", [y, _noise(g, spec, g.gain(spec))], f"{name}.noisy")
    if fir_bias is None:
        y = g.node("Add", [y, _bias(g, spec, style)], f"{name}.biased")
    clamp = g.clamp(spec)
    if clamp is None:
        return g.node("LeakyRelu", [y], name, alpha=LRELU_SLOPE)
    y = g.node("LeakyRelu", [y], f"{name}.activated", alpha=LRELU_SLOPE)
    return g.node("Clip", [y, g.activation_constant(-clamp), g.activation_constant(clamp)], name)


def _bias(g: SynthesisGraph, spec: LayerSpec, style: ConvStyle) -> str:
    """`[1 or N, O, 1, 1]`, with the gain."""
    if style.bias is not None:
        return g.per_channel(style.bias)
    return g.activation_weight(f"{spec.name}.bias", g.bias(spec).reshape(1, -1, 1, 1))


def _noise(g: SynthesisGraph, spec: LayerSpec, gain: float) -> str:
    """`[1 or N, 1, H, W]`: a layer's noise times its strength and `gain`."""
    name = spec.name
    strength = g.array(f"{name}.noise_strength") * (gain / g.plan.activation_scale)
    if g.noise == "const":
        return g.activation_weight(f"{name}.noise", (g.array(f"{name}.noise_const") * strength)[None, None])
    noise = g.node("Mul", [noise_name(spec), g.constant(strength)], f"{name}.noise")
    return g.cast(noise, f"{name}.noise_half", g.plan.dtype) if g.plan.float16 else noise


def _divide_by_dynamic_range(g: SynthesisGraph, name: str, x: str, style: ConvStyle, negative_ratio: float) -> ConvStyle:
    """The style divided, and the demodulation multiplied, by each sample's dynamic range (`Int8Quantization`).

    The extremes of a channel times its style are its extremes after modulation. So one pass over `x` finds the range.
    """
    if negative_ratio == 1:
        # The magnitude is enough. A reduction over two axes keeps OpenVINO's layout of `x`.
        magnitude = g.node("ReduceMax", [g.node("Abs", [x], f"{name}.size"), g.ints(2, 3)], f"{name}.channels", keepdims=0)
        style_magnitude = g.node("Abs", [style.style], f"{name}.style_size")
        modulated = g.node("Mul", [magnitude, style_magnitude], f"{name}.modulated_size")
        candidates = [g.node("ReduceMax", [modulated, g.ints(1)], f"{name}.greatest", keepdims=1)]
    else:
        # ONNX Runtime reduces one axis faster than two.
        flat = g.node("Reshape", [x, g.ints(0, 0, -1)], f"{name}.channels")
        extremes = []
        for op, end in (("ReduceMax", "highest"), ("ReduceMin", "lowest")):
            extreme = g.node(op, [flat, g.ints(2)], f"{name}.{end}", keepdims=0)
            extremes.append(g.node("Mul", [extreme, style.style], f"{name}.{end}_modulated"))
        # A negative style swaps the two extremes of its channel.
        tops = g.node("Max", extremes, f"{name}.tops")
        top = g.node("ReduceMax", [tops, g.ints(1)], f"{name}.top", keepdims=1)
        bottoms = g.node("Min", extremes, f"{name}.bottoms")
        bottom = g.node("ReduceMin", [bottoms, g.ints(1)], f"{name}.bottom", keepdims=1)
        below = g.node("Mul", [bottom, g.activation_constant(-1 / negative_ratio)], f"{name}.below")
        candidates = [top, below]
    # In tensor names the dynamic range is "reach". The names stay, because they are part of the exported bytes.
    dynamic_range = g.node("Max", [*candidates, g.activation_constant(MIN_DYNAMIC_RANGE)], f"{name}.reach")
    return ConvStyle(
        g.node("Div", [style.style, dynamic_range], f"{name}.style_by_reach"),
        g.node("Mul", [style.demod, dynamic_range], f"{name}.demod_by_reach"),
        style.bias,
    )


def _convolution_and_fir(g: SynthesisGraph, spec: LayerSpec, x: str, fold: ConvStyle | None, fir_bias: str | None) -> str:
    """The convolution in the layer's form. Upsampling forms but `polyphase` end with the FIR, which may add a bias."""
    name, weight, plan = spec.name, g.constants[spec.name].weight, g.plan.layer(spec)
    if spec.up == 1:
        return convolution(g, spec, x, weight, fold)
    phase = (spec.height // 2, spec.width // 2)
    fir = g.fir[::-1, ::-1] * 4  # the official gain of a 2x upsampling
    if plan.form == "polyphase":
        return convolution(g, spec, x, polyphase_weights(weight, fir), fold, phase_size=phase)
    taps = np.tile(fir, (spec.out_channels, 1, 1, 1))
    if plan.form == "phases":
        # The phases have one row and column more than the transposed convolution. They are zero, like the padding
        # there.
        y = convolution(g, spec, x, phase_weights(weight), fold, phase_size=(phase[0] + 1, phase[1] + 1))
        pads = [1, 1, 0, 0]
        fir_weight = g.activation_weight(f"{name}.fir", taps)
    elif plan.form == "separate_phases":
        y = _separate_phases(g, spec, x, weight)
        pads = [1, 1, 0, 0]
        fir_weight = g.activation_weight(f"{name}.fir", taps)
    else:
        y = convolution(g, spec, x, weight.transpose(1, 0, 2, 3), fold, transposed=True)
        pads = [1, 1, 1, 1]
        if plan.int8 is not None and plan.int8.output is not None:
            fir_weight = g.qdq.int8_weight(taps, f"{name}.fir", axis=0, peak=FIR_INT8_PEAK)
        else:
            fir_weight = g.activation_weight(f"{name}.fir", taps)
    inputs = [y, fir_weight] if fir_bias is None else [y, fir_weight, fir_bias]
    return g.node("Conv", inputs, f"{name}.blurred", pads=pads, group=spec.out_channels)


def convolution(
    g: SynthesisGraph,
    spec: LayerSpec,
    x: str,
    kernel: np.ndarray,
    fold: ConvStyle | None = None,
    transposed: bool = False,
    phase_size: tuple[int, int] | None = None,
) -> str:
    """Add a layer's convolution in the number format of its plan.

    Args:
        g: The graph.
        spec: The layer.
        x: `[N, I, H, W]`.
        kernel: `[O, I, k, k]`, or `[I, O, k, k]` when transposed.
        fold: The style and the demodulation, for the quantisation nodes to apply.
        transposed: Whether it is a stride-2 transposed convolution.
        phase_size: None, or the height and width of the four phases that the convolution computes for each output channel.
            They become the pixels of one image of twice the size.
    """
    name, int8 = spec.name, g.plan.layer(spec).int8
    x = _quantized_input(g, spec, x, fold)
    weight = _weight(g, spec, kernel, transposed)
    if transposed:
        y = g.node("ConvTranspose", [x, weight], f"{name}.conv", strides=[2, 2])
    else:
        y = g.node("Conv", [x, weight], f"{name}.conv", pads=[kernel.shape[2] // 2] * 4)
    if int8 is None or int8.output is None:
        return g.node("DepthToSpace", [y], f"{name}.shuffled", blocksize=2, mode="DCR") if phase_size else y
    y = g.qdq.quantize(y, int8.output, f"{name}.out")
    more = 1 if transposed else 0
    size = (spec.height + more, spec.width + more)
    if phase_size:
        y, size = _interleave_int8_phases(g, spec, y, phase_size), (2 * phase_size[0], 2 * phase_size[1])
    demod = None if fold is None else ChannelFactor(fold.demod, spec.out_channels, size)
    return g.qdq.dequantize(y, int8.output, f"{name}.out", demod)


def _separate_phases(g: SynthesisGraph, spec: LayerSpec, x: str, weight: np.ndarray) -> str:
    """The four phases of a transposed convolution, each by a convolution with its own taps alone, and a depth-to-space.

    Like the phases of one convolution, they have one row and column more, which are zero.
    """
    name, phases = spec.name, []
    for y_name, y_taps, y_pads in PHASE_AXES:
        for x_name, x_taps, x_pads in PHASE_AXES:
            phase = f"{name}.conv_{y_name}_{x_name}"
            kernel = g.activation_weight(f"{phase}.weight", weight[:, :, y_taps, x_taps])
            pads = [y_pads[0], x_pads[0], y_pads[1], x_pads[1]]
            phases.append(g.node("Conv", [x, kernel], phase, pads=pads))
    y = g.node("Concat", phases, f"{name}.conv", axis=1)
    return g.node("DepthToSpace", [y], f"{name}.shuffled", blocksize=2, mode="DCR")


def _quantized_input(g: SynthesisGraph, spec: LayerSpec, x: str, fold: ConvStyle | None) -> str:
    """The input through Q/DQ nodes, or as it is in a float layer."""
    name, plan = f"{spec.name}.in", g.plan.layer(spec)
    if plan.fp8 is not None:
        return g.qdq.fp8(x, plan.fp8.input_scale, name)
    if plan.int8 is None:
        return x
    style = (
        None if fold is None else ChannelFactor(fold.style, spec.in_channels, (spec.height // spec.up, spec.width // spec.up))
    )
    return g.qdq.dequantize(g.qdq.quantize(x, plan.int8.input, name, style), plan.int8.input, name)


def _weight(g: SynthesisGraph, spec: LayerSpec, kernel: np.ndarray, transposed: bool) -> str:
    name, quantization, int8 = f"{spec.name}.weight", g.plan.layer(spec).quantization, g.plan.layer(spec).int8
    if quantization is None:
        return g.activation_weight(name, kernel)
    rounder = quantization.rounder
    round_kernel = round_to_nearest if rounder is None else partial(rounder, upsampling=transposed)
    output_axis = 1 if transposed else 0
    if int8 is None:
        return g.qdq.fp8_weight(kernel, name, output_axis, round_kernel)
    if int8.limit_pairs:
        return g.qdq.int8_weight_of_limited_pairs(kernel, name, output_axis, round_kernel)
    return g.qdq.int8_weight(kernel, name, output_axis, round_kernel=round_kernel)


def _interleave_int8_phases(g: SynthesisGraph, spec: LayerSpec, y: str, size: tuple[int, int]) -> str:
    """A depth-to-space of 8-bit phases `[N, 4 O, *size]`.

    8-bit convolutions write channels last. In that layout the transposition moves whole rows of 2 O bytes.
    """
    name, channels, (height, width) = spec.name, spec.out_channels, size
    y = g.node("Transpose", [y], f"{name}.nhwc", perm=[0, 2, 3, 1])
    y = g.node("Reshape", [y, g.ints(0, height, width, 2, 2 * channels)], f"{name}.phases")
    y = g.node("Transpose", [y], f"{name}.rows", perm=[0, 1, 3, 2, 4])
    y = g.node("Reshape", [y, g.ints(0, 2 * height, 2 * width, channels)], f"{name}.pixels")
    return g.node("Transpose", [y], f"{name}.shuffled", perm=[0, 3, 1, 2])
