"""The synthesis network as ONNX: ws (and noise) to images.

Written from the list of layers in `GeneratorConfig.layers`, with everything that does not depend on ws folded into
constants: weight gains, noise strengths, the sums of squares behind the demodulation. A layer is either one node of the
`stylert` domain or the same mathematics in plain operators, as its `LayerPlan` says.

In float16 the activations and weights of the convolutions are half precision; styles and demodulations are computed in
float32 and rounded once, and the RGB image stays in float32 throughout.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper

from stylert.core.errors import CheckpointError
from stylert.export.graph import GraphBuilder
from stylert.export.phases import phase_weights, polyphase_weights
from stylert.export.plan import REACH_EPS, Fp8Scale, Int8Steps, LayerPlan, NetworkPlan, layer_constants
from stylert.export.quantization.gptq import nearest
from stylert.export.quantization.qdq import EightBit, Factor
from stylert.export.styles import ConvStyle, RgbStyle, style_nodes
from stylert.models.checkpoint import GeneratorWeights
from stylert.models.stylegan2.config import RESNET_GAIN, GeneratorConfig, LayerSpec
from stylert.plugins.constants import ACTIVATION_GAIN, LRELU_SLOPE
from stylert.plugins.onnx_functions import DOMAIN

NoiseInput = Literal["const", "none", "input"]
OutputType = Literal["uint8", "float"]


def synthesis_model(
    weights: GeneratorWeights,
    noise: NoiseInput = "const",
    output: OutputType = "uint8",
    plan: NetworkPlan | None = None,
    observe: Collection[str] = (),
) -> onnx.ModelProto:
    """ws `[N, num_ws, w_dim]` (, noise_* `[N, 1, R, R]`) to image: uint8 `[N, R, R, C]` or float32 `[N, C, R, R]`.

    Without a plan every convolution is an operator node in float32. For each layer in `observe` the model also returns what
    goes into its convolution and what comes out: `<layer>.style`, `<layer>.modulated` and `<layer>.conv`.

    Raises CheckpointError when the resampling filter is not the one that the operators take.
    """
    cfg = weights.config
    if len(cfg.resample_filter) != 4:
        raise CheckpointError(
            f"export needs the 4-tap resampling filter of StyleGAN2, this network has {len(cfg.resample_filter)} taps"
        )
    writer = _Writer(weights, noise, plan or NetworkPlan())
    g = writer.g
    ws = g.input("ws", ["N", cfg.num_ws, cfg.w_dim])
    if noise == "input":
        for spec in cfg.layers():
            if spec.kind == "conv":
                g.input(noise_name(spec), ["N", 1, spec.resolution, spec.resolution])
    conv_styles, rgb_styles = writer.styles(ws)
    x, img = writer.weight("b4.const", weights.arrays["synthesis.b4.const"][None]), None
    shortcut = None
    for spec in cfg.layers():
        if spec.kind == "conv":
            if spec.up == 2 and spec.resolution in cfg.shortcuts():
                shortcut = writer.shortcut(spec, x)
            x = writer.conv(spec, x, conv_styles[spec.name])
            if shortcut is not None and writer.is_residual(spec):
                x = g.node("Add", [x, shortcut], f"b{spec.resolution}.sum")
        else:
            if img is not None:
                img = writer.upsample(spec, img, f"b{spec.resolution}.upsampled")
            rgb = writer.to_rgb(spec, x, rgb_styles[spec.name])
            img = rgb if img is None else g.node("Add", [img, rgb], f"b{spec.resolution}.img")
    assert img is not None
    _image(g, img, output, cfg)
    for name in observe:
        g.output(f"{name}.style", ["N", None], writer.elem)
        g.output(f"{name}.modulated", ["N", None, None, None], writer.elem)
        g.output(f"{name}.conv", ["N", None, None, None], writer.elem)
    return g.model()


def noise_name(spec: LayerSpec) -> str:
    """The name of a layer's noise input, `noise_<resolution>_<layer>`."""
    return f"noise_{spec.resolution}_{spec.name.split('.')[1]}"


def _image(g: GraphBuilder, img: str, output: OutputType, cfg: GeneratorConfig) -> None:
    size, c = cfg.resolution, cfg.img_channels
    if output == "float":
        g.node("Identity", [img], "image")
        g.output("image", ["N", c, size, size])
        return
    # x * 127.5 + 128 truncated, the official conversion; floor first, for runtimes whose cast rounds.
    y = g.node("Add", [g.node("Mul", [img, g.constant(127.5)], "scaled"), g.constant(128.0)], "shifted")
    y = g.node("Floor", [g.node("Clip", [y, g.constant(0.0), g.constant(255.0)], "clipped")], "floored")
    g.node("Cast", [g.node("Transpose", [y], "nhwc", perm=[0, 2, 3, 1])], "image", to=TensorProto.UINT8)
    g.output("image", ["N", size, size, c], TensorProto.UINT8)


class _Writer:
    """Writes layers into a graph: what they share is here, what differs comes as arguments."""

    def __init__(self, weights: GeneratorWeights, noise: NoiseInput, plan: NetworkPlan) -> None:
        self.g = GraphBuilder("synthesis")
        self.weights, self.cfg, self.noise, self.plan = weights, weights.config, noise, plan
        self.dtype = np.float16 if plan.half else np.float32
        self.elem = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        self.convs = {s.resolution: s for s in self.cfg.layers() if s.kind == "conv"}  # the last of every block
        self.constants = {s.name: layer_constants(weights, s, plan.layer(s)) for s in self.cfg.layers()}
        self.eight = EightBit(self.g, self.dtype)
        self.fir = self.g.weight("resample_filter", weights.arrays["synthesis.b4.resample_filter"])

    def weight(self, name: str, value: np.ndarray) -> str:
        """A constant in the type of the activations."""
        return self.g.weight(name, value.astype(self.dtype))

    def constant(self, value: float) -> str:
        return self.g.constant(value, self.dtype)

    def cast(self, tensor: str, name: str, to: int) -> str:
        return self.g.node("Cast", [tensor], name, to=to)

    def styles(self, ws: str) -> tuple[dict[str, ConvStyle], dict[str, RgbStyle]]:
        # Plain forms fold the tail's gain into demod, noise and bias: the leaky ReLU is positively homogeneous.
        plain = [s for s in self.cfg.layers() if s.kind == "conv" and self.plan.layer(s).form != "operator"]
        gains = {s.name: self.gain(s) for s in plain}
        biases = {s.name: self.bias(s) for s in plain if self.plan.live_bias}
        return style_nodes(self.g, self.cfg, ws, self.plan, self.constants, gains, biases)

    def is_residual(self, spec: LayerSpec) -> bool:
        """Whether a shortcut is added to what this layer returns."""
        return spec.kind == "conv" and spec.up == 1 and spec.resolution in self.cfg.shortcuts()

    def gain(self, spec: LayerSpec) -> float:
        return ACTIVATION_GAIN["lrelu"] * (RESNET_GAIN if self.is_residual(spec) else 1.0)

    def bias(self, spec: LayerSpec) -> np.ndarray:
        """`[O]`, with the gain."""
        return self.weights.arrays[f"synthesis.{spec.name}.bias"] * self.gain(spec)

    def clamp(self, spec: LayerSpec) -> float | None:
        return None if self.cfg.conv_clamp is None else self.cfg.conv_clamp * (RESNET_GAIN if self.is_residual(spec) else 1.0)

    # --- the modulated convolution ---------------------------------------------------------------------------------

    def conv(self, spec: LayerSpec, x: str, style: ConvStyle) -> str:
        plan = self.plan.layer(spec)
        if plan.form == "operator":
            return self._operator(spec, x, style)
        g, name = self.g, spec.name
        if isinstance(plan.eight_bit, Int8Steps) and plan.eight_bit.depth is not None:
            style = self._style_by_reach(x, style, plan.eight_bit.depth, name)
        steps = plan.eight_bit if isinstance(plan.eight_bit, Int8Steps) and plan.eight_bit.scaled else None
        modulated, demodulated = steps is not None, steps is not None and steps.output is not None  # by the steps
        blurred = spec.up == 2 and plan.form != "polyphase"
        bias = self.weight(f"{name}.bias", self.bias(spec)) if demodulated and blurred else None  # which the FIR can add
        y = x if modulated else g.node("Mul", [x, self.by_channel(style.style)], f"{name}.modulated")
        y = self._convolve(spec, y, plan, style if modulated else None, bias)
        if not demodulated:
            y = g.node("Mul", [y, self.by_channel(style.demod)], f"{name}.demodulated")
        if self.noise != "none":
            y = g.node("Add", [y, self._noise(spec, self.gain(spec))], f"{name}.noisy")
        if bias is None:
            bias = (
                self.weight(f"{name}.bias", self.bias(spec).reshape(1, -1, 1, 1))
                if style.bias is None
                else self.by_channel(style.bias)
            )
            y = g.node("Add", [y, bias], f"{name}.biased")
        clamp = self.clamp(spec)
        y = g.node("LeakyRelu", [y], name if clamp is None else f"{name}.activated", alpha=LRELU_SLOPE)
        return y if clamp is None else g.node("Clip", [y, self.constant(-clamp), self.constant(clamp)], name)

    def by_channel(self, vector: str) -> str:
        """`[N, C]` as `[N, C, 1, 1]`."""
        return self.g.node("Unsqueeze", [vector, self.g.ints(2, 3)], f"{vector}_1")

    def _style_by_reach(self, x: str, style: ConvStyle, depth: float, name: str) -> ConvStyle:
        """The style over the sample's reach (`Int8Steps`), which the demodulation multiplies back.

        A channel's extremes times its style are its extremes after modulation, so one pass over x finds them. Where both
        sides reach as far, which is how OpenVINO takes it, the magnitude is enough, and two axes at once keep its layout.
        """
        g = self.g
        if depth == 1:
            channels = g.node("ReduceMax", [g.node("Abs", [x], f"{name}.size"), g.ints(2, 3)], f"{name}.channels", keepdims=0)
            size = g.node("Mul", [channels, g.node("Abs", [style.style], f"{name}.style_size")], f"{name}.modulated_size")
            ends = [g.node("ReduceMax", [size, g.ints(1)], f"{name}.greatest", keepdims=1)]
        else:
            flat = g.node("Reshape", [x, g.ints(0, 0, -1)], f"{name}.channels")  # ONNX Runtime reduces one axis 4x faster
            sides = [
                g.node(
                    "Mul", [g.node(op, [flat, g.ints(2)], f"{name}.{end}", keepdims=0), style.style], f"{name}.{end}_modulated"
                )
                for op, end in (("ReduceMax", "highest"), ("ReduceMin", "lowest"))
            ]  # a negative style swaps them
            top = g.node("ReduceMax", [g.node("Max", sides, f"{name}.tops"), g.ints(1)], f"{name}.top", keepdims=1)
            bottom = g.node("ReduceMin", [g.node("Min", sides, f"{name}.bottoms"), g.ints(1)], f"{name}.bottom", keepdims=1)
            ends = [top, g.node("Mul", [bottom, self.constant(-1 / depth)], f"{name}.below")]
        reach = g.node("Max", [*ends, self.constant(REACH_EPS)], f"{name}.reach")
        return ConvStyle(
            g.node("Div", [style.style, reach], f"{name}.style_by_reach"),
            g.node("Mul", [style.demod, reach], f"{name}.demod_by_reach"),
            style.bias,
        )

    def _operator(self, spec: LayerSpec, x: str, style: ConvStyle) -> str:
        g, name = self.g, spec.name
        g.shape(name, ["N", spec.out_channels, spec.resolution, spec.resolution], self.elem)
        noise = g.constant(np.zeros((1, 1, 1, 1)), self.dtype) if self.noise == "none" else self._noise(spec, 1.0)
        return g.node(
            "ModulatedConv2d",
            [
                x,
                self.weight(f"{name}.weight", self.constants[name].weight),
                style.style,
                style.demod,
                noise,
                self.weight(f"{name}.bias", self.weights.arrays[f"synthesis.{name}.bias"]),
                self.fir,
            ],
            name,
            DOMAIN,
            up=spec.up,
            alpha=LRELU_SLOPE,
            gain=self.gain(spec),
            clamp=float(self.clamp(spec) or 0),
            group=spec.out_channels,
            plugin_namespace=DOMAIN,
        )

    def _noise(self, spec: LayerSpec, gain: float) -> str:
        """The noise of a layer, `[1 or N, 1, R, R]`, times its strength and `gain`."""
        g, name = self.g, spec.name
        strength = self.weights.arrays[f"synthesis.{name}.noise_strength"] * gain
        if self.noise == "const":
            return self.weight(f"{name}.noise", (self.weights.arrays[f"synthesis.{name}.noise_const"] * strength)[None, None])
        scaled = g.node("Mul", [noise_name(spec), g.constant(strength)], f"{name}.noise")
        return self.cast(scaled, f"{name}.noise_half", self.elem) if self.plan.half else scaled

    def _convolve(self, spec: LayerSpec, x: str, plan: LayerPlan, style: ConvStyle | None, bias: str | None) -> str:
        """The convolution of a layer and, where it upsamples, the FIR, with a bias if there is one. With a `style` the steps of 8 bits
        are scaled by it.
        """
        g, name, weight = self.g, spec.name, self.constants[spec.name].weight
        fir = self.weights.arrays["synthesis.b4.resample_filter"][::-1, ::-1] * 4
        if spec.up == 1:
            return self._quantisable_conv(spec, x, weight, plan, style)
        if plan.form == "polyphase":
            return self._quantisable_conv(spec, x, polyphase_weights(weight, fir), plan, style, phases=spec.resolution // 2)
        kernel = np.tile(fir, (spec.out_channels, 1, 1, 1))
        if plan.form == "phases":
            # One row and column more than the transposed convolution has; they are zero, as the padding would be.
            y = self._quantisable_conv(spec, x, phase_weights(weight), plan, style, phases=spec.resolution // 2 + 1)
            taps, pads = self.weight(f"{name}.fir", kernel), [1, 1, 0, 0]
        else:
            y = self._quantisable_conv(spec, x, weight.transpose(1, 0, 2, 3), plan, style, transposed=True)
            pads = [1, 1, 1, 1]
            if not isinstance(plan.eight_bit, Int8Steps) or plan.eight_bit.output is None:
                taps = self.weight(f"{name}.fir", kernel)
            else:
                # The taps 1, 3 and 9 sixteenths are 14, 42 and 126 steps.
                taps = self.eight.int8_weight(kernel, f"{name}.fir", axis=0, levels=126)
        return g.node(
            "Conv", [y, taps] if bias is None else [y, taps, bias], f"{name}.blurred", pads=pads, group=spec.out_channels
        )

    def _quantisable_conv(
        self,
        spec: LayerSpec,
        x: str,
        kernel: np.ndarray,
        plan: LayerPlan,
        style: ConvStyle | None,
        transposed: bool = False,
        phases: int = 0,
    ) -> str:
        """A convolution, or a stride-2 transposed one with its kernel `[I, O, k, k]`, in 8 bits where there are scales.

        With `phases`, their height and width, the output's four phases of every channel become pixels.
        """
        g, name, axis = self.g, spec.name, 1 if transposed else 0
        int8 = plan.eight_bit if isinstance(plan.eight_bit, Int8Steps) else None
        rounding = None if plan.eight_bit is None else plan.eight_bit.rounding
        rounded = nearest if rounding is None else partial(rounding, upsampling=transposed)
        if isinstance(plan.eight_bit, Fp8Scale):
            x = self.eight.as_fp8(x, plan.eight_bit, f"{name}.in")
            w = self.eight.fp8_weight(kernel, f"{name}.weight", axis, rounded)
        elif int8 is not None:
            size = spec.resolution // spec.up
            modulation = None if style is None else Factor(style.style, spec.in_channels, size)
            x = self.eight.quantize(x, int8.input, f"{name}.in", modulation)
            x = self.eight.dequantize(x, int8.input, f"{name}.in")
            w = self.eight.int8_weight(kernel, f"{name}.weight", axis, rounded=rounded)
        else:
            w = self.weight(f"{name}.weight", kernel)
        if transposed:
            y = g.node("ConvTranspose", [x, w], f"{name}.conv", strides=[2, 2])
        else:
            y = g.node("Conv", [x, w], f"{name}.conv", pads=[kernel.shape[2] // 2] * 4)
        if int8 is None or int8.output is None:
            return g.node("DepthToSpace", [y], f"{name}.shuffled", blocksize=2, mode="DCR") if phases else y
        y = self.eight.quantize(y, int8.output, f"{name}.out")
        if phases:
            # In 8 bits a convolution's output lies channels last, so that whole rows of 2 O bytes find their place.
            o = spec.out_channels
            y = g.node("Transpose", [y], f"{name}.nhwc", perm=[0, 2, 3, 1])
            y = g.node("Reshape", [y, g.ints(0, phases, phases, 2, 2 * o)], f"{name}.phases")
            y = g.node("Transpose", [y], f"{name}.rows", perm=[0, 1, 3, 2, 4])
            y = g.node("Reshape", [y, g.ints(0, 2 * phases, 2 * phases, o)], f"{name}.pixels")
            y = g.node("Transpose", [y], f"{name}.shuffled", perm=[0, 3, 1, 2])
        size = 2 * phases or (spec.resolution + 1 if transposed else spec.resolution)
        demodulation = None if style is None else Factor(style.demod, spec.out_channels, size)
        return self.eight.dequantize(y, int8.output, f"{name}.out", demodulation)

    # --- the image ---------------------------------------------------------------------------------------------------

    def to_rgb(self, spec: LayerSpec, x: str, style: RgbStyle) -> str:
        form = self.plan.layer(spec).form
        return self._rgb_conv(spec, x, style) if form == "conv" else self._rgb_matmul(spec, x, style, form == "matmul_nhwc")

    def _rgb_conv(self, spec: LayerSpec, x: str, style: RgbStyle) -> str:
        g, name, size, channels = self.g, spec.name, spec.resolution, spec.out_channels
        y = g.node("Mul", [x, self.by_channel(style.factor)], f"{name}.modulated")
        y = self._quantisable_conv(spec, y, self.constants[name].weight, self.plan.layer(spec), None)
        bias = self.rgb_bias(spec)
        if style.norm is None or self.plan.half:
            return self._rgb_tail(spec, y, style, (2, 3), bias.reshape(1, -1, 1, 1), name)
        # Where the norm keeps the tail out of the convolution, OpenVINO makes of it a pass with channels last, three numbers at a time;
        # whole rows of pixels are one of a tenth of the time.
        y = g.node("Transpose", [y], f"{name}.nhwc", perm=[0, 2, 3, 1])
        y = g.node("Reshape", [y, g.ints(0, size, size * channels)], f"{name}.flat")
        y = self._rgb_tail(spec, y, style, (1,), np.tile(bias, size), f"{name}.rows")
        y = g.node("Reshape", [y, g.ints(0, size, size, channels)], f"{name}.image")
        return g.node("Transpose", [y], name, perm=[0, 3, 1, 2])

    def _rgb_matmul(self, spec: LayerSpec, x: str, style: RgbStyle, nhwc: bool) -> str:
        """The 1x1 convolution as a batched matrix product with weights per sample: no pass over the activations."""
        g, name = self.g, spec.name
        if nhwc:
            x = g.node("Transpose", [x], f"{name}.nhwc", perm=[0, 2, 3, 1])
        flat = g.node("Reshape", [x, g.ints(0, -1, spec.in_channels) if nhwc else g.ints(0, 0, -1)], f"{name}.flat")
        y = g.node("MatMul", [flat, style.factor] if nhwc else [style.factor, flat], f"{name}.matmul")
        size = spec.resolution
        if not nhwc:
            y = self._rgb_tail(spec, y, style, (1,), self.rgb_bias(spec).reshape(1, -1, 1), f"{name}.planes")
            return g.node("Reshape", [y, g.ints(0, 0, size, size)], name)
        y = g.node("Slice", [y, g.ints(0), g.ints(spec.out_channels), g.ints(2)], f"{name}.columns")
        y = self._rgb_tail(spec, y, style, (1,), self.rgb_bias(spec), f"{name}.pixels")
        y = g.node("Reshape", [y, g.ints(0, size, size, spec.out_channels)], f"{name}.image")
        return g.node("Transpose", [y], name, perm=[0, 3, 1, 2])

    def rgb_bias(self, spec: LayerSpec) -> np.ndarray:
        return self.weights.arrays[f"synthesis.{spec.name}.bias"]

    def _rgb_tail(self, spec: LayerSpec, y: str, style: RgbStyle, axes: tuple[int, ...], bias: np.ndarray, out: str) -> str:
        """In float32 from here on: norm, bias and clamp. `axes` broadcast the norm `[N, 1]` over the pixels."""
        g, name = self.g, spec.name
        if self.plan.half:
            y = self.cast(y, f"{name}.single", TensorProto.FLOAT)
        if style.norm is not None:
            y = g.node("Mul", [y, g.node("Unsqueeze", [style.norm, g.ints(*axes)], f"{name}.norm_1")], f"{name}.scaled")
        added = g.weight(f"{name}.bias", bias)
        clamp = self.cfg.conv_clamp
        y = g.node("Add", [y, added], out if clamp is None else f"{name}.biased")
        return y if clamp is None else g.node("Clip", [y, g.constant(-clamp), g.constant(clamp)], out)

    def shortcut(self, spec: LayerSpec, x: str) -> str:
        """Around a residual block: an unmodulated 1x1 convolution and a 2x upsampling."""
        name = f"b{spec.resolution}.skip"
        weight = self.weights.arrays[f"synthesis.{name}.weight"] * (RESNET_GAIN / np.sqrt(spec.in_channels))
        y = self.g.node("Conv", [x, self.weight(f"{name}.weight", weight)], f"{name}.conv")
        return self.upsample(spec, y, f"{name}.upsampled", self.dtype)

    def upsample(self, spec: LayerSpec, x: str, name: str, dtype: type[np.floating] = np.float32) -> str:
        """Twice the size, for what is added to the result of a layer, in the kind of nodes that the block's convolutions are."""
        fir = self.weights.arrays["synthesis.b4.resample_filter"]
        if self.plan.layer(self.convs[spec.resolution]).form != "operator":
            # The outermost row and column are what upfirdn2d would crop.
            taps = self.g.weight(f"{name}.fir", np.tile(fir * 4, (spec.out_channels, 1, 1, 1)).astype(dtype))
            return self.g.node("ConvTranspose", [x, taps], name, strides=[2, 2], pads=[1, 1, 1, 1], group=spec.out_channels)
        self.g.shape(
            name, ["N", spec.out_channels, spec.resolution, spec.resolution], helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        )
        return self.g.node(
            "Upfirdn2d",
            [x, self.fir],
            name,
            DOMAIN,
            up=[2, 2],
            down=[1, 1],
            padding=[2, 1, 2, 1],
            flip=0,
            gain=4.0,
            group=spec.out_channels,
            plugin_namespace=DOMAIN,
        )
