"""The synthesis network as ONNX: ws (and noise) to images.

Written from the list of layers in `GeneratorConfig.layers`, with everything that does not depend on ws folded into
constants: weight gains, noise strengths, the sums of squares behind the demodulation. A layer is either one node of the
`stylert` domain or the same mathematics in plain operators, as its `LayerPlan` says.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto

from stylert.export.graph import GraphBuilder
from stylert.plugins.definitions import ACTIVATION_GAIN, DEMOD_EPS, LRELU_SLOPE
from stylert.plugins.onnx_functions import DOMAIN
from stylert.runtime.errors import CheckpointError
from stylert.train.checkpoint import GeneratorWeights
from stylert.train.config import RESNET_GAIN, GeneratorConfig, LayerSpec

NoiseInput = Literal["const", "none", "input"]
OutputType = Literal["uint8", "float"]


@dataclass(frozen=True)
class LayerPlan:
    """The form that one modulated convolution takes. Every form computes the same numbers.

    `operator`: a ModulatedConv2d node. `transposed` (up layers): stride-2 transposed convolution, then the FIR.
    `phases` (up layers): the transposed convolution as one 2x2 convolution to four phases and a depth-to-space, then the
    FIR; it keeps the multiplications in an ordinary convolution, which every INT8 backend has. A layer without
    upsampling is the same plain convolution in both.
    """

    form: Literal["operator", "transposed", "phases"] = "operator"
    int8: Int8Plan | None = None


@dataclass(frozen=True)
class Int8Plan:
    """How a layer's convolution runs in 8 bits: symmetric, per-tensor activations, per-channel weights.

    Scales migrate exactly: the input channels are divided by `in_equal` and the weights multiplied by it (SmoothQuant,
    Xiao et al. 2022); the convolution's output channels are divided by `out_equal` through the weights and multiplied
    back by the demodulation. What is left on both sides fills its 8 bits evenly.
    """

    in_scale: float
    out_scale: float
    in_equal: np.ndarray  # [I]
    out_equal: np.ndarray  # [O]


OPERATORS = LayerPlan("operator")


def synthesis_model(
    weights: GeneratorWeights,
    noise: NoiseInput = "const",
    output: OutputType = "uint8",
    plans: Mapping[str, LayerPlan] | None = None,
    observe: Collection[str] = (),
) -> onnx.ModelProto:
    """ws `[N, num_ws, w_dim]` (, noise_* `[N, 1, R, R]`) to image: uint8 `[N, R, R, C]` or float32 `[N, C, R, R]`.

    `plans` gives forms by layer name; layers without one stay operator nodes. For each layer in `observe` the model also
    returns what goes into its convolution and what comes out, `<layer>.modulated` and `<layer>.conv`.
    """
    cfg = weights.config
    if len(cfg.resample_filter) != 4:
        raise CheckpointError(
            f"export needs the 4-tap resampling filter of StyleGAN2, this network has {len(cfg.resample_filter)} taps"
        )
    g = GraphBuilder("synthesis")
    ws = g.input("ws", ["N", cfg.num_ws, cfg.w_dim])
    if noise == "input":
        for spec in cfg.layers():
            if spec.kind == "conv":
                g.input(noise_name(spec), ["N", 1, spec.resolution, spec.resolution])
    latents = [g.node("Gather", [ws, g.constant(i, np.int64)], f"w{i}", axis=1) for i in range(cfg.num_ws)]
    fir = g.weight("resample_filter", weights.arrays["synthesis.b4.resample_filter"])
    x, img = g.weight("b4.const", weights.arrays["synthesis.b4.const"][None]), None
    shortcut = None
    for spec in cfg.layers():
        style = _style(g, weights, spec, latents[spec.ws_index])
        if spec.kind == "conv":
            if spec.up == 2 and spec.resolution in cfg.shortcuts():
                shortcut = _shortcut(g, weights, spec, x, fir)
            x = _conv_layer(g, weights, spec, x, style, noise, fir, (plans or {}).get(spec.name, OPERATORS))
            if shortcut is not None and _is_residual(cfg, spec):
                x = g.node("Add", [x, shortcut], f"b{spec.resolution}.sum")
        else:
            if img is not None:
                img = _upsample(g, img, f"b{spec.resolution}.upsampled", spec.out_channels, spec.resolution, fir)
            rgb = _to_rgb(g, weights, spec, x, style)
            img = rgb if img is None else g.node("Add", [img, rgb], f"b{spec.resolution}.img")
    assert img is not None
    size, c = cfg.resolution, cfg.img_channels
    if output == "float":
        g.node("Identity", [img], "image")
        g.output("image", ["N", c, size, size])
    else:
        # x * 127.5 + 128 truncated, the official conversion; floor first, for runtimes whose cast rounds.
        y = g.node("Add", [g.node("Mul", [img, g.constant(127.5)], "scaled"), g.constant(128.0)], "shifted")
        y = g.node("Floor", [g.node("Clip", [y, g.constant(0.0), g.constant(255.0)], "clipped")], "floored")
        y = g.node("Cast", [g.node("Transpose", [y], "nhwc", perm=[0, 2, 3, 1])], "image", to=TensorProto.UINT8)
        g.output("image", ["N", size, size, c], TensorProto.UINT8)
    for name in observe:
        g.output(f"{name}.modulated", ["N", None, None, None])
        g.output(f"{name}.conv", ["N", None, None, None])
    return g.model()


def noise_name(spec: LayerSpec) -> str:
    """The name of a layer's noise input, `noise_<resolution>_<layer>`."""
    return f"noise_{spec.resolution}_{spec.name.split('.')[1]}"


def _style(g: GraphBuilder, weights: GeneratorWeights, spec: LayerSpec, w_i: str) -> str:
    w, cfg = weights.arrays, weights.config
    gain = 1 / np.sqrt(cfg.w_dim)
    bias_gain = 1.0
    if spec.kind == "torgb":  # its convolution has no demodulation, so its weight gain goes into the style
        bias_gain = 1 / np.sqrt(spec.in_channels * spec.kernel**2)
        gain *= bias_gain
    weight = g.weight(f"{spec.name}.affine.weight", (w[f"synthesis.{spec.name}.affine.weight"] * gain).astype(np.float32))
    bias = g.weight(f"{spec.name}.affine.bias", (w[f"synthesis.{spec.name}.affine.bias"] * bias_gain).astype(np.float32))
    return g.node("Gemm", [w_i, weight, bias], f"{spec.name}.style", transB=1)


def _conv_layer(
    g: GraphBuilder,
    weights: GeneratorWeights,
    spec: LayerSpec,
    x: str,
    style: str,
    noise: NoiseInput,
    fir: str,
    plan: LayerPlan,
) -> str:
    cfg, name = weights.config, spec.name
    array = weights.arrays[f"synthesis.{name}.weight"]
    strength = weights.arrays[f"synthesis.{name}.noise_strength"]
    energy = g.weight(f"{name}.energy", np.square(array.astype(np.float64)).sum((2, 3)).T.astype(np.float32))
    total = g.node("MatMul", [g.node("Mul", [style, style], f"{name}.style_sq"), energy], f"{name}.style_energy")
    root = g.node("Sqrt", [g.node("Add", [total, g.constant(DEMOD_EPS)], f"{name}.demod_eps")], f"{name}.demod_root")
    demod = g.node("Reciprocal", [root], f"{name}.demod")
    if noise == "const":
        noise_map = g.weight(f"{name}.noise", (weights.arrays[f"synthesis.{name}.noise_const"] * strength)[None, None])
    elif noise == "none":
        noise_map = g.constant(np.zeros((1, 1, 1, 1)))
    else:
        noise_map = g.node("Mul", [noise_name(spec), g.weight(f"{name}.noise_strength", strength)], f"{name}.noise")
    bias = g.weight(f"{name}.bias", weights.arrays[f"synthesis.{name}.bias"])
    branch = RESNET_GAIN if _is_residual(cfg, spec) else 1.0
    gain, clamp = ACTIVATION_GAIN["lrelu"] * branch, None if cfg.conv_clamp is None else cfg.conv_clamp * branch
    if plan.form == "operator":
        weight = g.weight(f"{name}.weight", array)
        g.shape(name, ["N", spec.out_channels, spec.resolution, spec.resolution])
        return g.node(
            "ModulatedConv2d",
            [x, weight, style, demod, noise_map, bias, fir],
            name,
            DOMAIN,
            up=spec.up,
            alpha=LRELU_SLOPE,
            gain=gain,
            clamp=float(clamp or 0),
            group=spec.out_channels,
            plugin_namespace=DOMAIN,
        )

    # Demodulation makes the layer blind to the scale of its style, so every sample's is brought to unit mean square: the
    # convolution's range no longer depends on w.
    mean = g.node("ReduceMean", [f"{name}.style_sq", g.ints(1)], f"{name}.style_mean", keepdims=1)
    norm = g.node("Sqrt", [g.node("Add", [mean, g.constant(DEMOD_EPS)], f"{name}.style_eps")], f"{name}.style_norm")
    style = g.node("Div", [style, norm], f"{name}.style_unit")
    # The tail's gain is folded into demod, noise and bias: the leaky ReLU is positively homogeneous.
    scale = g.node("Mul", [g.node("Mul", [demod, norm], f"{name}.demod_norm"), g.constant(gain)], f"{name}.demod_gain")
    if plan.int8 is not None:
        array = array * (plan.int8.in_equal[None, :, None, None] / plan.int8.out_equal[:, None, None, None])
        style = g.node(
            "Div", [style, g.weight(f"{name}.in_equal", plan.int8.in_equal.astype(np.float32))], f"{name}.style_equal"
        )
        scale = g.node(
            "Mul", [scale, g.weight(f"{name}.out_equal", plan.int8.out_equal.astype(np.float32))], f"{name}.demod_equal"
        )

    y = g.node("Mul", [x, g.node("Unsqueeze", [style, g.ints(2, 3)], f"{name}.style_1")], f"{name}.modulated")
    y = _convolve(g, spec, y, array, weights, plan)
    y = g.node("Mul", [y, g.node("Unsqueeze", [scale, g.ints(2, 3)], f"{name}.demod_1")], f"{name}.demodulated")
    if noise != "none":
        y = g.node("Add", [y, _times_gain(g, noise_map, gain)], f"{name}.noisy")
    bias = g.weight(
        f"{name}.bias_gain", (weights.arrays[f"synthesis.{name}.bias"] * gain).astype(np.float32).reshape(1, -1, 1, 1)
    )
    y = g.node("Add", [y, bias], f"{name}.biased")
    y = g.node("LeakyRelu", [y], name if clamp is None else f"{name}.activated", alpha=LRELU_SLOPE)
    if clamp is not None:
        y = g.node("Clip", [y, g.constant(-clamp), g.constant(clamp)], name)
    return y


def _is_residual(cfg: GeneratorConfig, spec: LayerSpec) -> bool:
    """Whether a shortcut is added to what this layer returns."""
    return spec.kind == "conv" and spec.up == 1 and spec.resolution in cfg.shortcuts()


def _shortcut(g: GraphBuilder, weights: GeneratorWeights, spec: LayerSpec, x: str, fir: str) -> str:
    """Around a block: an unmodulated 1x1 convolution and a 2x upsampling."""
    name = f"b{spec.resolution}.skip"
    gain = RESNET_GAIN / np.sqrt(spec.in_channels)
    weight = g.weight(f"{name}.weight", (weights.arrays[f"synthesis.{name}.weight"] * gain).astype(np.float32))
    y = g.node("Conv", [x, weight], f"{name}.conv")
    return _upsample(g, y, f"{name}.upsampled", spec.out_channels, spec.resolution, fir)


def _convolve(g: GraphBuilder, spec: LayerSpec, x: str, weight: np.ndarray, weights: GeneratorWeights, plan: LayerPlan) -> str:
    name = spec.name
    if spec.up == 2 and plan.form == "transposed":
        y = g.node(
            "ConvTranspose", [x, g.weight(f"{name}.weight", weight.transpose(1, 0, 2, 3))], f"{name}.conv", strides=[2, 2]
        )
        pads = [1, 1, 1, 1]
    else:
        if plan.int8 is not None:
            x = _fake_quantize(g, x, plan.int8.in_scale, f"{name}.in")
        kernel = weight if spec.up == 1 else phase_weights(weight)
        w = g.weight(f"{name}.weight", kernel) if plan.int8 is None else _int8_weight(g, kernel, f"{name}.weight")
        y = g.node("Conv", [x, w], f"{name}.conv", pads=[1, 1, 1, 1])
        if plan.int8 is not None:  # ONNX Runtime runs a convolution in 8 bits only between two of these
            y = _fake_quantize(g, y, plan.int8.out_scale, f"{name}.out")
        if spec.up == 1:
            return y
        # One row and column more than the transposed convolution has; they are zero, as the padding would be.
        y, pads = g.node("DepthToSpace", [y], f"{name}.shuffled", blocksize=2, mode="DCR"), [1, 1, 0, 0]
    taps = weights.arrays["synthesis.b4.resample_filter"][::-1, ::-1] * 4
    fir = g.weight(f"{name}.fir", np.tile(taps, (spec.out_channels, 1, 1, 1)).astype(np.float32))
    return g.node("Conv", [y, fir], f"{name}.blurred", pads=pads, group=spec.out_channels)


def _times_gain(g: GraphBuilder, tensor: str, gain: float) -> str:
    """`tensor * gain`, folded when the tensor is a constant."""
    if tensor not in g.initializers:
        return g.node("Mul", [tensor, g.constant(gain)], f"{tensor}_gain")
    value = onnx.numpy_helper.to_array(g.initializers.pop(tensor))
    return g.weight(f"{tensor}_gain", (value * gain).astype(np.float32))


def _fake_quantize(g: GraphBuilder, x: str, scale: float, name: str) -> str:
    s, zero = g.weight(f"{name}_scale", np.array(scale, np.float32)), g.constant(0, np.int8)
    return g.node("DequantizeLinear", [g.node("QuantizeLinear", [x, s, zero], f"{name}_q"), s, zero], f"{name}_dq")


def _int8_weight(g: GraphBuilder, weight: np.ndarray, name: str) -> str:
    scale = np.maximum(np.abs(weight).max((1, 2, 3)) / 127, 1e-12).astype(np.float32)
    values = np.clip(np.rint(weight / scale[:, None, None, None]), -127, 127).astype(np.int8)
    inputs = [
        g.weight(f"{name}_q", values),
        g.weight(f"{name}_scale", scale),
        g.weight(f"{name}_zero", np.zeros(len(scale), np.int8)),
    ]
    return g.node("DequantizeLinear", inputs, name, axis=0)


def phase_weights(weight: np.ndarray) -> np.ndarray:
    """The four 2x2 kernels of a stride-2 transposed convolution: `[O, I, 3, 3]` to `[4 O, I, 2, 2]`, phase-major.

    An even output pixel sees taps 2 and 0 on two neighbouring inputs, an odd one tap 1 on the second of them.
    """
    rows = np.stack([weight[:, :, [2, 0]], np.stack([np.zeros_like(weight[:, :, 1]), weight[:, :, 1]], axis=2)])
    even, odd = rows[..., [2, 0]], np.stack([np.zeros_like(rows[..., 1]), rows[..., 1]], axis=-1)
    o, i = weight.shape[:2]
    return np.stack([even, odd], axis=1).reshape(4 * o, i, 2, 2)


def _to_rgb(g: GraphBuilder, weights: GeneratorWeights, spec: LayerSpec, x: str, style: str) -> str:
    """The 1x1 convolution as a batched matrix product, its weights scaled per sample: no pass over the activations."""
    cfg, name = weights.config, spec.name
    weight = g.weight(f"{name}.weight", weights.arrays[f"synthesis.{name}.weight"][None, :, :, 0, 0])
    scaled = g.node("Mul", [weight, g.node("Unsqueeze", [style, g.ints(1)], f"{name}.style_1")], f"{name}.modulated")
    flat = g.node("Reshape", [x, g.ints(0, 0, -1)], f"{name}.flat")
    y = g.node("MatMul", [scaled, flat], f"{name}.matmul")
    bias = g.weight(f"{name}.bias", weights.arrays[f"synthesis.{name}.bias"].reshape(1, -1, 1))
    y = g.node("Add", [y, bias], f"{name}.biased")
    if cfg.conv_clamp is not None:
        y = g.node("Clip", [y, g.constant(-cfg.conv_clamp), g.constant(cfg.conv_clamp)], f"{name}.clamped")
    return g.node("Reshape", [y, g.ints(0, 0, spec.resolution, spec.resolution)], name)


def _upsample(g: GraphBuilder, x: str, name: str, channels: int, resolution: int, fir: str) -> str:
    g.shape(name, ["N", channels, resolution, resolution])
    return g.node(
        "Upfirdn2d",
        [x, fir],
        name,
        DOMAIN,
        up=[2, 2],
        down=[1, 1],
        padding=[2, 1, 2, 1],
        flip=0,
        gain=4.0,
        group=channels,
        plugin_namespace=DOMAIN,
    )
