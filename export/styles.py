"""Writes the ONNX nodes that compute the style and the demodulation of every layer from ws.

They are two batched matrix products.

One product computes all affine layers, and the other all demodulations. Both are padded to the widest layer. An engine
runs them as two kernels in front of the network, instead of two small kernels between convolutions.

Demodulation cancels the scale of a style, so each style is divided by the root of its mean square. The range of a
convolution's input then does not depend on the size of w. torgb has no demodulation. Its style is normalised in
float16, and in 8 bits if its migration has an `input_power`. The result of torgb is then multiplied by the norm of the style, in
float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from stylert.export.network_plan import conv_layers, rgb_layers
from stylert.export.style_offsets import offset_styles
from stylert.export.synthesis_graph import SynthesisGraph
from stylert.models.stylegan2.config import LayerSpec
from stylert.plugins.constants import DEMOD_EPS


@dataclass(frozen=True)
class ConvStyle:
    """Names of the tensors that one modulated convolution takes.

    Attributes:
        style: `[N, I]`, normalised.
        demod: `[N, O]`. It includes the layer's gain, but not for operator nodes, which multiply by the gain
            themselves.
        bias: `[N, O]`, with the layer's gain, or None without `NetworkPlan.per_sample_bias`.
    """

    style: str
    demod: str
    bias: str | None = None


@dataclass(frozen=True)
class RgbStyle:
    """Names of the tensors that one torgb takes.

    Attributes:
        factor: For the form `conv` the style `[N, I]`. For `matmul` the weights times the style, `[N, C, I]`, and for
            `matmul_nhwc` the same as `[N, I, C]`, with C padded to a multiple of 4.
        norm: `[N, 1]`, multiplies the result, or None where the style is not normalised.
    """

    factor: str
    norm: str | None


@dataclass(frozen=True)
class _AllStyles:
    """Styles of all layers together, as tensor names: convolutions first, then torgb layers."""

    raw: str  # [L, N, width]
    normalised: str  # [L, N, width]
    norms: str  # [L, N, 1]
    width: int


def style_nodes(g: SynthesisGraph, ws: str) -> tuple[dict[str, ConvStyle], dict[str, RgbStyle]]:
    """Add the nodes that compute all styles.

    Args:
        g: The graph.
        ws: `[N, num_ws, w_dim]`.

    Returns:
        The tensors of each convolution, and those of each torgb, by layer name.
    """
    convs, rgbs = conv_layers(g.cfg), rgb_layers(g.cfg)
    styles = _all_styles(g, convs + rgbs, ws)
    return _conv_styles(g, convs, styles), _rgb_styles(g, rgbs, len(convs), styles)


def _all_styles(g: SynthesisGraph, layers: list[LayerSpec], ws: str) -> _AllStyles:
    width = max(spec.in_channels for spec in layers)
    affine = np.zeros((len(layers), g.cfg.w_dim, width), np.float32)
    bias = np.zeros((len(layers), 1, width), np.float32)
    style_weight = np.zeros((len(layers), 1, width), np.float32)
    for i, spec in enumerate(layers):
        constants = g.constants[spec.name]
        affine[i, :, : spec.in_channels] = constants.affine_weight.T
        bias[i, 0, : spec.in_channels] = constants.affine_bias
        style_weight[i, 0, : spec.in_channels] = constants.style_weight

    by_layer = g.node("Gather", [ws, g.ints(*(spec.ws_index for spec in layers))], "ws_by_layer", axis=1)
    by_layer = g.node("Transpose", [by_layer], "ws_layer_first", perm=[1, 0, 2])
    product = g.node("MatMul", [by_layer, g.weight("affine.weight", affine)], "affine")
    styles = g.node("Add", [product, g.weight("affine.bias", bias)], "styles")
    if g.style_offsets is not None:
        styles = offset_styles(g, layers, styles, g.style_offsets, width)

    squares = g.node("Mul", [styles, styles], "style_squares")
    weighted = g.node("Mul", [squares, g.weight("style.weight", style_weight)], "style_shares")
    mean_square = g.node("ReduceSum", [weighted, g.ints(2)], "style_mean_square", keepdims=1)
    with_eps = g.node("Add", [mean_square, g.constant(DEMOD_EPS)], "style_mean_square_eps")
    norms = g.node("Sqrt", [with_eps], "style_norms")
    return _AllStyles(styles, g.node("Div", [styles, norms], "unit_styles"), norms, width)


def _conv_styles(g: SynthesisGraph, convs: list[LayerSpec], styles: _AllStyles) -> dict[str, ConvStyle]:
    # The leaky ReLU is positively homogeneous, so plain forms fold its gain into the demodulation, the noise and the
    # bias.
    plain = [spec for spec in convs if not g.plan.layer(spec).is_operator]
    width = max(spec.out_channels for spec in convs)
    roots = _demod_roots(g, convs, width, {spec.name: g.gain(spec) for spec in plain}, styles)
    demods = g.as_activation(g.node("Reciprocal", [roots], "demods"))
    with_bias = plain if g.plan.per_sample_bias else []
    biases = _per_sample_biases(g, convs, with_bias, width, roots) if with_bias else ""
    normalised = g.as_activation(styles.normalised)
    entries_of = _split_entries if g.plan.split_styles else _entries
    style_of = entries_of(g, normalised, {spec: (i, spec.in_channels) for i, spec in enumerate(convs)}, styles.width, "style")
    demod_of = entries_of(g, demods, {spec: (i, spec.out_channels) for i, spec in enumerate(convs)}, width, "demod")
    bias_of = entries_of(
        g, biases, {spec: (i, spec.out_channels) for i, spec in enumerate(convs) if spec in with_bias}, width, "live_bias"
    )
    return {spec.name: ConvStyle(style_of[spec], demod_of[spec], bias_of.get(spec)) for spec in convs}


def _demod_roots(g: SynthesisGraph, convs: list[LayerSpec], width: int, gains: dict[str, float], styles: _AllStyles) -> str:
    """`[convs, N, width]`: the reciprocals of all demodulations, sqrt(sum (style * weight)^2 + eps) / gain."""
    energy = np.zeros((len(convs), styles.width, width), np.float32)
    eps = np.empty((len(convs), 1, 1), np.float32)
    for i, spec in enumerate(convs):
        weight, gain = g.constants[spec.name].weight.astype(np.float64), gains.get(spec.name, 1.0)
        energy[i, : spec.in_channels, : spec.out_channels] = np.square(weight).sum((2, 3)).T / gain**2
        eps[i] = DEMOD_EPS / gain**2
    conv_styles = g.node("Slice", [styles.normalised, g.ints(0), g.ints(len(convs)), g.ints(0)], "conv_styles")
    squares = g.node("Mul", [conv_styles, conv_styles], "conv_style_squares")
    energies = g.node("MatMul", [squares, g.weight("energy.weight", energy)], "energies")
    return g.node("Sqrt", [g.node("Add", [energies, g.weight("energy.eps", eps)], "energies_eps")], "demod_roots")


def _per_sample_biases(g: SynthesisGraph, convs: list[LayerSpec], with_bias: list[LayerSpec], width: int, roots: str) -> str:
    """`[convs, N, width]`: constant biases that no compiler recognises as constant."""
    biases = np.zeros((len(convs), 1, width), np.float32)
    for i, spec in enumerate(convs):
        if spec in with_bias:
            biases[i, 0, : spec.out_channels] = g.bias(spec)
    always_true = g.node("Greater", [roots, g.constant(0.0)], "demods_known")  # a root is never 0
    return g.as_activation(g.node("Where", [always_true, g.weight("biases", biases), g.constant(0.0)], "live_biases"))


def _rgb_styles(g: SynthesisGraph, rgbs: list[LayerSpec], first: int, styles: _AllStyles) -> dict[str, RgbStyle]:
    """`first` is the index of the first torgb in `styles`."""
    factors = _rgb_factors(g, rgbs, first, styles)
    rgb_styles = {}
    split = _split_rgb_styles(g, rgbs, factors, styles.width) if g.plan.split_styles else {}
    for i, spec in enumerate(rgbs):
        form, normalised = g.plan.layer(spec).form, _is_normalised(g, spec)
        name = f"{spec.name}.{'style' if form == 'conv' else 'weight_by_style'}"
        input_axis = 2 if form == "matmul" else 1
        factor = split.get(spec) or _layer_entry(
            g, factors(form, normalised), i, spec.in_channels, styles.width, name, input_axis
        )
        norm = _layer_entry(g, styles.norms, first + i, 1, 1, f"{spec.name}.norm") if normalised else None
        rgb_styles[spec.name] = RgbStyle(factor, norm)
    return rgb_styles


def _is_normalised(g: SynthesisGraph, spec: LayerSpec) -> bool:
    """Whether a torgb's style is divided by its norm."""
    migration = g.plan.layer(spec).migration
    return g.plan.float16 or (migration is not None and migration.input_power is not None)


def _split_rgb_styles(
    g: SynthesisGraph, rgbs: list[LayerSpec], factors: Callable[[str, bool], str], width: int
) -> dict[LayerSpec, str]:
    """The styles of all torgb layers of the form `conv`, split."""
    split: dict[LayerSpec, str] = {}
    for normalised in (False, True):
        entries = {
            spec: (i, spec.in_channels)
            for i, spec in enumerate(rgbs)
            if g.plan.layer(spec).form == "conv" and _is_normalised(g, spec) == normalised
        }
        if entries:
            split |= _split_entries(g, factors("conv", normalised), entries, width, "style")
    return split


def _rgb_factors(g: SynthesisGraph, rgbs: list[LayerSpec], first: int, styles: _AllStyles) -> Callable[[str, bool], str]:
    """A function from a form, and whether styles are normalised, to the `RgbStyle.factor` of all torgb layers together.

    Its nodes are written when a layer first needs them.
    """

    @cache
    def rgb_slice(normalised: bool) -> str:
        bounds = [g.ints(first), g.ints(first + len(rgbs)), g.ints(0)]
        source = styles.normalised if normalised else styles.raw
        return g.node("Slice", [source, *bounds], "rgb_unit_styles" if normalised else "rgb_styles")

    @cache
    def factors(form: str, normalised: bool) -> str:
        if form == "conv":
            return g.as_activation(rgb_slice(normalised))
        # Tensor cores take multiples of 4 columns. torgb cuts the padding off behind the product.
        nhwc, channels = form == "matmul_nhwc", g.cfg.img_channels
        columns = channels + -channels % 4 if nhwc else channels
        weight = np.zeros((len(rgbs), 1, columns, styles.width), np.float32)
        for i, spec in enumerate(rgbs):
            weight[i, 0, :channels, : spec.in_channels] = g.constants[spec.name].weight[:, :, 0, 0]
        if nhwc:
            weight = weight.transpose(0, 1, 3, 2)
        name = ("rgb_unit_weights" if normalised else "rgb_weights") + ("_nhwc" if nhwc else "")
        broadcast = g.node("Unsqueeze", [rgb_slice(normalised), g.ints(3 if nhwc else 2)], f"{name}.styles")
        return g.as_activation(g.node("Mul", [broadcast, g.weight(f"{name}.constant", weight)], name))

    return factors


def _entries(
    g: SynthesisGraph, stacked: str, entries: dict[LayerSpec, tuple[int, int]], width: int, suffix: str
) -> dict[LayerSpec, str]:
    """A tensor `[N, size]` of each layer, from `[L, N, width]`. `entries` are index and size by layer."""
    return {spec: _layer_entry(g, stacked, i, size, width, f"{spec.name}.{suffix}") for spec, (i, size) in entries.items()}


def _split_entries(
    g: SynthesisGraph, stacked: str, entries: dict[LayerSpec, tuple[int, int]], width: int, suffix: str
) -> dict[LayerSpec, str]:
    """As `_entries`, as outputs of one Split node that are `[N, size, 1, 1]` already (`SynthesisGraph.per_channel`)."""
    if not entries:
        return {}
    columns = [i * width + np.arange(size) for i, size in entries.values()]
    by_sample = g.node("Transpose", [stacked], f"{stacked}_by_sample", perm=[1, 0, 2])
    flat = g.node("Reshape", [by_sample, g.ints(0, -1)], f"{stacked}_flat")
    used = g.node("Gather", [flat, g.weight(f"{stacked}_columns", np.concatenate(columns))], f"{stacked}_used", axis=1)
    planes = g.node("Unsqueeze", [used, g.ints(2, 3)], f"{stacked}_planes")
    names = {spec: f"{spec.name}.{suffix}" for spec in entries}
    g.split_vectors(planes, list(names.values()), [size for _, size in entries.values()])
    for spec, name in names.items():
        if _reads_vectors(g, spec):
            g.node("Squeeze", [g.per_channel(name), g.ints(2, 3)], name)
    return names


def _layer_entry(g: SynthesisGraph, stacked: str, index: int, size: int, width: int, name: str, axis: int = 1) -> str:
    """Entry `index` of `[L, N, ...]`, cut from `width` to `size` along an axis of the entry."""
    wide = g.node("Gather", [stacked, g.constant(index, np.int64)], name if size == width else f"{name}_wide", axis=0)
    return wide if size == width else g.node("Slice", [wide, g.ints(0), g.ints(size), g.ints(axis)], name)


def _reads_vectors(g: SynthesisGraph, spec: LayerSpec) -> bool:
    """Whether a layer's nodes read styles as `[N, size]`: operator nodes do, and some quantisation."""
    layer = g.plan.layer(spec)
    int8 = layer.int8
    return layer.is_operator or (int8 is not None and (int8.fold_modulation or int8.negative_ratio is not None))
