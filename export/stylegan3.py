"""StyleGAN3's synthesis network as an ONNX model, without torch: ws to images, under a transform.

The network is written layer by layer from `GeneratorConfig.layers`. Constants are folded: the running
averages of magnitudes, the gains of weights and activations, the scale of the image. The batch is dynamic.

A filtered leaky ReLU has two forms:

- "operator": a node FilteredLrelu, which carries its function body. A filter is one convolution of two dimensions.
- "plain": nodes of ONNX alone. A separable filter is two convolutions of one dimension, with fewer multiplications.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import onnx

from stylert.core.errors import CheckpointError
from stylert.export.graph import GraphBuilder
from stylert.export.image_output import OutputType, image_output
from stylert.models.checkpoint import Stylegan3Weights
from stylert.models.stylegan2.config import NORM_EPS
from stylert.models.stylegan3.layer_list import LayerSpec
from stylert.plugins.constants import ACTIVATION_GAIN, DEMOD_EPS, LRELU_SLOPE
from stylert.plugins.onnx_functions import DOMAIN

#: How filtered leaky ReLUs are written.
FilterForm = Literal["operator", "plain"]
#: The transform of the image as an input of the network, or as the constant in the checkpoint.
TransformInput = Literal["input", "const"]


def synthesis_model(
    weights: Stylegan3Weights,
    form: FilterForm = "operator",
    float16: bool = False,
    output: OutputType = "float",
    transform: TransformInput = "input",
) -> onnx.ModelProto:
    """Write the synthesis network.

    Args:
        weights: The generator.
        form: How filtered leaky ReLUs are written.
        float16: Whether the layers compute in float16. The styles, the Fourier features and the image stay in float32.
        output: The type of the images.
        transform: Where the transform comes from.

    Returns:
        A model from ws `[N, num_ws, w_dim]` to `image`, uint8 `[N, R, R, C]` or float32 `[N, C, R, R]`. With the input
        `transform` `[N, 3, 3]`, these matrices map homogeneous positions in the image to those in the untransformed image;
        the image has a width of 1 around 0.

    Raises:
        CheckpointError: float16 cannot hold a constant of the network.
    """
    cfg = weights.config
    g = SynthesisGraph(weights, form, np.dtype(np.float16 if float16 else np.float32))
    ws = g.input("ws", ["N", cfg.num_ws, cfg.w_dim])
    user_frame = g.input("transform", ["N", 3, 3]) if transform == "input" else g.constant_transform()
    x = _fourier_features(g, _latent(g, ws, 0, "input"), user_frame)
    for spec in cfg.layers():
        x = _layer(g, spec, x, _latent(g, ws, spec.ws_index, spec.name))
    x = g.cast(x, "image_float32", np.float32) if float16 else x
    image_output(
        g, g.node("Mul", [x, g.constant(cfg.output_scale)], "image_scaled"), (cfg.img_channels, cfg.height, cfg.width), output
    )
    return g.model()


class SynthesisGraph(GraphBuilder):
    """A graph builder that knows the network's weights, and the form and type of its layers."""

    def __init__(self, weights: Stylegan3Weights, form: FilterForm, dtype: np.dtype[np.floating[Any]]) -> None:
        super().__init__("synthesis")
        self.cfg, self.arrays, self.form, self.dtype = weights.config, weights.arrays, form, dtype

    def array(self, name: str) -> np.ndarray:
        """A tensor of the checkpoint, by its name under `synthesis.`, float64."""
        return np.asarray(self.arrays[f"synthesis.{name}"], np.float64)

    def constant_transform(self) -> str | None:
        """The transform of the checkpoint as an initializer, or None for the identity."""
        matrix = self.array("input.transform")
        return None if np.array_equal(matrix, np.eye(3)) else self.float32("input.transform", matrix)

    def float32(self, name: str, value: np.ndarray) -> str:
        """An initializer for styles and features."""
        return self.weight(name, value.astype(np.float32))

    def activation(self, name: str, value: np.ndarray) -> str:
        """An initializer in the type of the layers. Raises CheckpointError where the type cannot hold it."""
        largest, limit = float(np.abs(value).max(initial=0)), float(np.finfo(self.dtype).max)
        if not largest <= limit:
            raise CheckpointError(f"{self.dtype} cannot hold {name} of this network: {largest:,.0f} exceeds {limit:,.0f}")
        return self.weight(name, value.astype(self.dtype))

    def per_channel(self, vector: str) -> str:
        """`[N, C]`, float32, as `[N, C, 1, 1]` in the type of the layers."""
        split = self.node("Unsqueeze", [vector, self.ints(2, 3)], f"{vector}_1")
        return split if self.dtype == np.float32 else self.cast(split, f"{vector}_{self.dtype}", self.dtype)


def _latent(g: SynthesisGraph, ws: str, index: int, name: str) -> str:
    """The latent of one layer, `[N, w_dim]`."""
    return g.node("Gather", [ws, g.constant(index, np.int64)], f"{name}.w", axis=1)


def _affine(g: SynthesisGraph, layer: str, w: str, scale: float = 1.0) -> str:
    """The affine function of a latent, `[N, features]`, times `scale`."""
    weight, bias = g.array(f"{layer}.affine.weight"), g.array(f"{layer}.affine.bias")
    product = g.node(
        "MatMul", [w, g.float32(f"{layer}.affine.weight", weight.T * (scale / math.sqrt(g.cfg.w_dim)))], f"{layer}.product"
    )
    return g.node("Add", [product, g.float32(f"{layer}.affine.bias", bias * scale)], f"{layer}.style")


# --- Fourier features ------------------------------------------------------------------------------------------------


def _fourier_features(g: SynthesisGraph, w: str, transform: str | None) -> str:
    """`[N, C, S, S]`: sin(2 pi (f · q + p)) of the points q of the canvas, and a matrix over the channels.

    The points are `q = frame · (x, y, 1)`. So one product with the frequencies gives those on the canvas and the phases,
    and a second one with all positions gives the angles.
    """
    cfg = g.cfg
    frame = _frame(g, w)  # [N, 2, 3]
    if transform is not None:
        frame = g.node("MatMul", [frame, transform], "input.frame")
    mapped = g.node("MatMul", [g.float32("input.freqs", g.array("input.freqs")), frame], "input.mapped")  # [N, C, 3]
    phases = np.zeros((cfg.input_channels, 3))
    phases[:, 2] = g.array("input.phases")
    mapped = g.node("Add", [mapped, g.float32("input.phases", phases)], "input.mapped_phases")

    freqs = g.node("Slice", [mapped, g.ints(0), g.ints(2), g.ints(2)], "input.canvas_freqs")
    norms = g.node("ReduceL2", [freqs, g.ints(2)], "input.freq_norms", keepdims=1)  # [N, C, 1]
    # A transform can enlarge frequencies. Those that the sampling rate cannot hold fade out.
    band = cfg.input_rate / 2 - cfg.first_cutoff
    fade = g.node("Mul", [norms, g.constant(-1 / band)], "input.fade")
    fade = g.node("Add", [fade, g.constant(1 + cfg.first_cutoff / band)], "input.fade_shifted")
    amplitudes = g.node("Clip", [fade, g.constant(0.0), g.constant(1.0)], "input.amplitudes")

    axis = np.array(cfg.input_positions)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    positions = np.stack([x.ravel(), y.ravel(), np.ones(x.size)]) * (2 * np.pi)
    angles = g.node("MatMul", [mapped, g.float32("input.positions", positions)], "input.angles")  # [N, C, S * S]
    waves = g.node("Mul", [g.node("Sin", [angles], "input.sines"), amplitudes], "input.waves")
    weight = g.array("input.weight") / math.sqrt(cfg.input_channels)
    mixed = g.node("MatMul", [g.float32("input.weight", weight), waves], "input.mixed")
    mixed = g.node("Reshape", [mixed, g.ints(0, cfg.input_channels, cfg.input_size, cfg.input_size)], "input.features")
    return mixed if g.dtype == np.float32 else g.cast(mixed, f"input.features_{g.dtype}", g.dtype)


def _frame(g: SynthesisGraph, w: str) -> str:
    """The upper two rows of `M_r M_t`, `[N, 2, 3]`.

    With t normalised, they are `(c, -s, s t_y - c t_x)` and `(s, c, -s t_x - c t_y)`.
    """
    t = _affine(g, "input", w)
    pair = g.node("Slice", [t, g.ints(0), g.ints(2), g.ints(1)], "input.turn")
    norm = g.node("ReduceL2", [pair, g.ints(1)], "input.turn_norm", keepdims=1)
    unit = g.node("Div", [t, norm], "input.unit")  # c, s, t_x, t_y
    c, s, tx, ty = (
        g.node("Gather", [unit, g.ints(i)], f"input.{name}", axis=1) for i, name in enumerate(("c", "s", "tx", "ty"))
    )

    def product(a: str, b: str) -> str:
        return g.node("Mul", [a, b], f"{a}_{b}")

    minus_s = g.node("Neg", [s], "input.minus_s")
    shift_x = g.node("Sub", [product(s, ty), product(c, tx)], "input.shift_x")
    shift_y = g.node("Neg", [g.node("Add", [product(s, tx), product(c, ty)], "input.shift_sum")], "input.shift_y")
    rows = g.node("Concat", [c, minus_s, shift_x, s, c, shift_y], "input.rows", axis=1)
    return g.node("Reshape", [rows, g.ints(0, 2, 3)], "input.own_frame")


# --- layers ----------------------------------------------------------------------------------------------------------


def _layer(g: SynthesisGraph, spec: LayerSpec, x: str, w: str) -> str:
    """One layer from its input and its latent."""
    input_gain = 1 / math.sqrt(float(g.array(f"{spec.name}.magnitude_ema")))
    weight = g.array(f"{spec.name}.weight")
    if spec.is_torgb:
        style = _affine(g, spec.name, w, input_gain / math.sqrt(weight[0].size))
        return _to_rgb(g, spec, _convolution(g, spec, x, weight, style))
    # Demodulation cancels the scales of weight and style. Unit scales keep all sums small in float16.
    weight = weight / np.sqrt(np.square(weight).sum((1, 2, 3), keepdims=True))
    style = _unit_style(g, spec, w)
    energy = g.float32(f"{spec.name}.energy", np.square(weight).sum((2, 3)).T)
    squares = g.node("Mul", [style, style], f"{spec.name}.style_squares")
    energies = g.node("MatMul", [squares, energy], f"{spec.name}.energies")
    energies = g.node("Add", [energies, g.constant(DEMOD_EPS / weight[0].size)], f"{spec.name}.energies_eps")
    demod = g.node("Reciprocal", [g.node("Sqrt", [energies], f"{spec.name}.demod_root")], f"{spec.name}.demod")
    scaled = g.node("Mul", [style, g.constant(input_gain)], f"{spec.name}.scaled_style")
    x = _convolution(g, spec, x, weight, scaled)
    x = g.node("Mul", [x, g.per_channel(demod)], f"{spec.name}.demodulated")
    return (_operator if g.form == "operator" else _plain)(g, spec, x)


def _unit_style(g: SynthesisGraph, spec: LayerSpec, w: str) -> str:
    """The style divided by the root of its mean square, `[N, in_channels]`."""
    style = _affine(g, spec.name, w)
    squares = g.node("Mul", [style, style], f"{spec.name}.raw_squares")
    mean = g.node("ReduceMean", [squares, g.ints(1)], f"{spec.name}.mean_square", keepdims=1)
    mean = g.node("Add", [mean, g.constant(NORM_EPS)], f"{spec.name}.mean_square_eps")
    return g.node("Div", [style, g.node("Sqrt", [mean], f"{spec.name}.norm")], f"{spec.name}.unit_style")


def _convolution(g: SynthesisGraph, spec: LayerSpec, x: str, weight: np.ndarray, style: str) -> str:
    """The modulated convolution over all positions at which kernel and input overlap."""
    modulated = g.node("Mul", [x, g.per_channel(style)], f"{spec.name}.modulated")
    pads = [spec.kernel - 1] * 4
    return g.node("Conv", [modulated, g.activation(f"{spec.name}.weight", weight)], f"{spec.name}.conv", pads=pads)


def _to_rgb(g: SynthesisGraph, spec: LayerSpec, x: str) -> str:
    return _clamp(g, spec, _bias(g, spec, x))


def _bias(g: SynthesisGraph, spec: LayerSpec, x: str) -> str:
    bias = g.array(f"{spec.name}.bias")[:, None, None]
    return g.node("Add", [x, g.activation(f"{spec.name}.bias", bias)], f"{spec.name}.biased")


def _clamp(g: SynthesisGraph, spec: LayerSpec, x: str) -> str:
    bound = g.cfg.conv_clamp
    if bound is None:
        return x
    return g.node("Clip", [x, g.constant(-bound, g.dtype), g.constant(bound, g.dtype)], f"{spec.name}.clamped")


def _filter(g: SynthesisGraph, spec: LayerSpec, kind: str) -> np.ndarray:
    """`[t]`, `[t, t]`, or a single tap of 1 where the layer has none."""
    name = f"{spec.name}.{kind}"
    return g.array(name) if f"synthesis.{name}" in g.arrays else np.ones(1)


def _operator(g: SynthesisGraph, spec: LayerSpec, x: str) -> str:
    """The nonlinearity as a node FilteredLrelu."""

    def plane(kind: str) -> str:
        f = _filter(g, spec, kind)
        return g.float32(f"{spec.name}.{kind}", np.outer(f, f) if f.ndim == 1 else f)

    name = f"{spec.name}.out"
    g.shape(name, ["N", spec.out_channels, spec.out_size, spec.out_size], g.dtype)
    return g.node(
        "FilteredLrelu",
        [x, g.float32(f"{spec.name}.bias", g.array(f"{spec.name}.bias")), plane("up_filter"), plane("down_filter")],
        name,
        DOMAIN,
        up=[spec.up, spec.up],
        down=[spec.down, spec.down],
        padding=[*spec.padding, *spec.padding],
        alpha=LRELU_SLOPE,
        gain=ACTIVATION_GAIN["lrelu"],
        clamp=g.cfg.conv_clamp or 0.0,
        group=spec.out_channels,
        plugin_namespace=DOMAIN,
    )


def _plain(g: SynthesisGraph, spec: LayerSpec, x: str) -> str:
    """The nonlinearity in ONNX's own operators. Its gain is folded into the upsampling."""
    x = _upsampled(g, spec, _bias(g, spec, x), ACTIVATION_GAIN["lrelu"] * spec.up**2)
    x = g.node("LeakyRelu", [x], f"{spec.name}.activated", alpha=LRELU_SLOPE)
    return _downsampled(g, spec, _clamp(g, spec, x))


def _upsampled(g: SynthesisGraph, spec: LayerSpec, x: str, gain: float) -> str:
    """Upsampling times `gain`. A transposed convolution inserts the zeros, and cuts off what the padding leaves out."""
    before, after = spec.padding[0] - (spec.up_taps - 1), spec.padding[1] - spec.up_taps + spec.up
    if spec.up_taps == 1:
        x = g.node("Mul", [x, g.constant(gain, g.dtype)], f"{spec.name}.gain")
    else:
        f, crop = _filter(g, spec, "up_filter"), (max(-before, 0), max(-after, 0))
        x = _separable(g, spec, "ConvTranspose", x, f, spec.up, crop, gain)
        before, after = max(before, 0), max(after, 0)
    if before or after:
        sides = g.ints(before, before, after, after)
        x = g.node("Pad", [x, sides, g.constant(0.0, g.dtype), g.ints(2, 3)], f"{spec.name}.padded")
    return x


def _downsampled(g: SynthesisGraph, spec: LayerSpec, x: str) -> str:
    if spec.down_taps == 1:
        return x
    f = _filter(g, spec, "down_filter")
    if f.ndim == 1:
        return _separable(g, spec, "Conv", x, f[::-1], spec.down)
    kernel = g.activation(f"{spec.name}.down", np.tile(f[::-1, ::-1], (spec.out_channels, 1, 1, 1)))
    return g.node("Conv", [x, kernel], f"{spec.name}.downsampled", strides=[spec.down] * 2, group=spec.out_channels)


def _separable(
    g: SynthesisGraph,
    spec: LayerSpec,
    op: str,
    x: str,
    f: np.ndarray,
    stride: int,
    crop: tuple[int, int] = (0, 0),
    gain: float = 1,
) -> str:
    """A filter `[t]` over y, then over x, as depthwise convolutions. `crop` cuts both ends of a transposed one."""
    for axis, direction in enumerate("yx"):
        taps = np.expand_dims(f * gain if axis == 0 else f, 1 - axis)  # [t, 1], then [1, t]
        kernel = np.tile(taps, (spec.out_channels, 1, 1, 1))
        name = f"{spec.name}.{op}_{direction}"
        strides, pads = [1, 1], [0, 0, 0, 0]
        strides[axis], pads[axis], pads[axis + 2] = stride, *crop
        x = g.node(op, [x, g.activation(f"{name}.taps", kernel)], name, strides=strides, pads=pads, group=spec.out_channels)
    return x
