"""From ws to every layer's style and demodulation, for all layers at once.

Two batched matrix products serve the whole network, padded to the widest layer: one for all affine layers, one for all
demodulations. An engine runs them as two kernels in front of everything else instead of two per layer between convolutions.

Demodulation makes a layer blind to the scale of its style, so every sample's style is brought to unit mean square: what a
convolution reads no longer depends on the size of w. torgb is not demodulated: where its form is a matrix product, its
weights, 1x1 and few, are multiplied with the style here. In float16 its style has unit mean square, too, or where its migration
has `in_power` what it modulates, and the norm comes beside it, to be multiplied back in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from onnx import helper

from stylert.export.graph import GraphBuilder
from stylert.export.plan import LayerConstants, NetworkPlan
from stylert.models.stylegan2.config import GeneratorConfig
from stylert.plugins.constants import DEMOD_EPS


@dataclass(frozen=True)
class ConvStyle:
    """Names of tensors: `style` `[N, I]` at unit mean square, `demod` `[N, O]`, with the layer's gain, and for plans with
    `live_bias` `bias` `[N, O]`, the layer's bias with its gain.
    """

    style: str
    demod: str
    bias: str | None = None


@dataclass(frozen=True)
class RgbStyle:
    """Names of tensors: `factor` is the style `[N, I]` for the form `conv`, else the weights times the style, `[N, C, I]` or
    for `matmul_nhwc` `[N, I, 4]`; `norm` `[N, 1]` multiplies the result."""

    factor: str
    norm: str | None


def style_nodes(
    g: GraphBuilder,
    cfg: GeneratorConfig,
    ws: str,
    plan: NetworkPlan,
    constants: Mapping[str, LayerConstants],
    gains: Mapping[str, float],
    biases: Mapping[str, np.ndarray],
) -> tuple[dict[str, ConvStyle], dict[str, RgbStyle]]:
    """Add the nodes that compute all styles from ws `[N, num_ws, w_dim]`, by layer name: convolutions, and torgb layers.

    `gains` are factors of the demodulation; 1 where a name is missing. `biases` `[O]` are wanted as tensors of every sample.
    """
    convs = [s for s in cfg.layers() if s.kind == "conv"]
    rgbs = [s for s in cfg.layers() if s.kind == "torgb"]
    layers = convs + rgbs
    dtype = np.float16 if plan.half else np.float32
    width = max(s.in_channels for s in layers)

    affine = np.zeros((len(layers), cfg.w_dim, width), np.float32)
    bias = np.zeros((len(layers), 1, width), np.float32)
    for i, spec in enumerate(layers):
        affine[i, :, : spec.in_channels] = constants[spec.name].affine_weight.T
        bias[i, 0, : spec.in_channels] = constants[spec.name].affine_bias
    by_layer = g.node("Gather", [ws, g.ints(*(s.ws_index for s in layers))], "ws_by_layer", axis=1)
    by_layer = g.node("Transpose", [by_layer], "ws_layer_first", perm=[1, 0, 2])
    product = g.node("MatMul", [by_layer, g.weight("affine.weight", affine)], "affine")
    styles = g.node("Add", [product, g.weight("affine.bias", bias)], "styles")  # [L, N, width]

    shares = np.zeros((len(layers), 1, width), np.float32)
    for i, spec in enumerate(layers):
        shares[i, 0, : spec.in_channels] = constants[spec.name].style_weight
    squares = g.node(
        "Mul", [g.node("Mul", [styles, styles], "style_squares"), g.weight("style.weight", shares)], "style_shares"
    )
    mean = g.node("ReduceSum", [squares, g.ints(2)], "style_mean_square", keepdims=1)
    norms = g.node("Sqrt", [g.node("Add", [mean, g.constant(DEMOD_EPS)], "style_mean_square_eps")], "style_norms")
    units = g.node("Div", [styles, norms], "unit_styles")

    energy = np.zeros((len(convs), width, max(s.out_channels for s in convs)), np.float32)
    eps = np.empty((len(convs), 1, 1), np.float32)
    for i, spec in enumerate(convs):
        w, gain = constants[spec.name].weight.astype(np.float64), gains.get(spec.name, 1.0)
        energy[i, : spec.in_channels, : spec.out_channels] = np.square(w).sum((2, 3)).T / gain**2
        eps[i] = DEMOD_EPS / gain**2
    conv_units = g.node("Slice", [units, g.ints(0), g.ints(len(convs)), g.ints(0)], "conv_styles")
    squares = g.node("Mul", [conv_units, conv_units], "conv_style_squares")
    energies = g.node("MatMul", [squares, g.weight("energy.weight", energy)], "energies")
    roots = g.node("Sqrt", [g.node("Add", [energies, g.weight("energy.eps", eps)], "energies_eps")], "demod_roots")
    demods = _cast(g, g.node("Reciprocal", [roots], "demods"), dtype)  # [convs, N, width]

    constant = np.zeros((len(convs), 1, energy.shape[2]), np.float32)
    for i, spec in enumerate(convs):
        if spec.name in biases:
            constant[i, 0, : spec.out_channels] = biases[spec.name]
    live = ""
    if biases:  # a root is never 0, but no compiler knows
        known = g.node("Greater", [roots, g.constant(0.0)], "demods_known")
        live = _cast(g, g.node("Where", [known, g.weight("biases", constant), g.constant(0.0)], "live_biases"), dtype)

    half_units = _cast(g, units, dtype)
    conv_styles = {
        spec.name: ConvStyle(
            _pick(g, half_units, i, spec.in_channels, width, f"{spec.name}.style"),
            _pick(g, demods, i, spec.out_channels, energy.shape[2], f"{spec.name}.demod"),
            _pick(g, live, i, spec.out_channels, energy.shape[2], f"{spec.name}.live_bias") if spec.name in biases else None,
        )
        for i, spec in enumerate(convs)
    }

    @cache
    def rgb_styles(unit: bool) -> str:
        bounds = [g.ints(len(convs)), g.ints(len(layers)), g.ints(0)]
        return g.node("Slice", [units if unit else styles, *bounds], f"rgb_{'unit_' * unit}styles")

    @cache
    def rgb_factors(form: str, unit: bool) -> str:
        """What a torgb of this form takes, of all torgb layers together."""
        if form == "conv":
            return _cast(g, rgb_styles(unit), dtype)
        # With pixels in rows, the product's columns are padded to what tensor cores take; the rest is cut off behind it.
        nhwc = form == "matmul_nhwc"
        columns = -cfg.img_channels % 4 + cfg.img_channels if nhwc else cfg.img_channels
        weight = np.zeros((len(rgbs), 1, columns, width), np.float32)
        for i, spec in enumerate(rgbs):
            weight[i, 0, : cfg.img_channels, : spec.in_channels] = constants[spec.name].weight[:, :, 0, 0]
        name = f"rgb_{'unit_' * unit}weights{'_nhwc' * nhwc}"
        rows = g.node("Unsqueeze", [rgb_styles(unit), g.ints(3 if nhwc else 2)], f"{name}.styles")
        product = g.node("Mul", [rows, g.weight(f"{name}.constant", weight.transpose(0, 1, 3, 2) if nhwc else weight)], name)
        return _cast(g, product, dtype)

    rgb = {}
    for i, spec in enumerate(rgbs):
        layer = plan.layer(spec)
        unit = plan.half or (layer.migration is not None and layer.migration.in_power is not None)
        name = f"{spec.name}.{'style' if layer.form == 'conv' else 'weight_by_style'}"
        axis = 2 if layer.form == "matmul" else 1  # of the input channels
        rgb[spec.name] = RgbStyle(
            _pick(g, rgb_factors(layer.form, unit), i, spec.in_channels, width, name, axis),
            _pick(g, norms, len(convs) + i, 1, 1, f"{spec.name}.norm") if unit else None,
        )
    return conv_styles, rgb


def _pick(g: GraphBuilder, stacked: str, index: int, size: int, width: int, name: str, axis: int = 1) -> str:
    """Entry `index` of `[L, N, …]`, cut from `width` to its own size along an axis."""
    row = g.node("Gather", [stacked, g.constant(index, np.int64)], name if size == width else f"{name}_wide", axis=0)
    return row if size == width else g.node("Slice", [row, g.ints(0), g.ints(size), g.ints(axis)], name)


def _cast(g: GraphBuilder, tensor: str, dtype: type[np.floating]) -> str:
    if dtype is np.float32:
        return tensor
    return g.node("Cast", [tensor], f"{tensor}_{np.dtype(dtype).name}", to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
