"""Writes the ONNX nodes of one torgb, the 1x1 convolution from activations to RGB, in the form of its plan.

The norm of the style, the bias and the clamp are applied in float32.
"""

from __future__ import annotations

import numpy as np

from stylert.export.convolution import convolution
from stylert.export.styles import RgbStyle
from stylert.export.synthesis_graph import SynthesisGraph
from stylert.models.stylegan2.config import LayerSpec


def to_rgb(g: SynthesisGraph, spec: LayerSpec, x: str, style: RgbStyle) -> str:
    """Add one torgb.

    Args:
        g: The graph.
        spec: The layer.
        x: `[N, I, H, W]`.
        style: The layer's tensors of `style_nodes`.

    Returns:
        The tensor `[N, C, H, W]`, float32. It has the layer's name.
    """
    form = g.plan.layer(spec).form
    if form == "conv":
        return _conv(g, spec, x, style)
    return _matmul_nhwc(g, spec, x, style) if form == "matmul_nhwc" else _matmul(g, spec, x, style)


def _conv(g: SynthesisGraph, spec: LayerSpec, x: str, style: RgbStyle) -> str:
    """A constant 1x1 convolution of the modulated activations."""
    name, channels = spec.name, spec.out_channels
    y = g.node("Mul", [x, g.per_channel(style.factor)], f"{name}.modulated")
    y = convolution(g, spec, y, g.constants[name].weight)
    bias = _bias(g, spec)
    if style.norm is None or g.plan.float16:
        return _norm_bias_clamp(g, spec, y, style, (2, 3), bias.reshape(1, -1, 1, 1), name)
    # With a norm, OpenVINO cannot fuse bias and clamp into the convolution. Its separate pass would handle three
    # channels at a time. It is much faster on whole rows of pixels.
    y = g.node("Transpose", [y], f"{name}.nhwc", perm=[0, 2, 3, 1])
    y = g.node("Reshape", [y, g.ints(0, spec.height, spec.width * channels)], f"{name}.flat")
    y = _norm_bias_clamp(g, spec, y, style, (1,), np.tile(bias, spec.width), f"{name}.rows")
    return _image_from_nhwc(g, spec, y)


def _matmul(g: SynthesisGraph, spec: LayerSpec, x: str, style: RgbStyle) -> str:
    """Weights of each sample times its activations, `[N, C, I] @ [N, I, H W]`."""
    name = spec.name
    flat = g.node("Reshape", [x, g.ints(0, 0, -1)], f"{name}.flat")
    y = g.node("MatMul", [style.factor, flat], f"{name}.matmul")
    y = _norm_bias_clamp(g, spec, y, style, (1,), _bias(g, spec).reshape(1, -1, 1), f"{name}.planes")
    return g.node("Reshape", [y, g.ints(0, 0, spec.height, spec.width)], name)


def _matmul_nhwc(g: SynthesisGraph, spec: LayerSpec, x: str, style: RgbStyle) -> str:
    """The same with a row per pixel, `[N, H W, I] @ [N, I, C]`, C padded."""
    name = spec.name
    x = g.node("Transpose", [x], f"{name}.nhwc", perm=[0, 2, 3, 1])
    flat = g.node("Reshape", [x, g.ints(0, -1, spec.in_channels)], f"{name}.flat")
    y = g.node("MatMul", [flat, style.factor], f"{name}.matmul")
    y = g.node("Slice", [y, g.ints(0), g.ints(spec.out_channels), g.ints(2)], f"{name}.columns")
    y = _norm_bias_clamp(g, spec, y, style, (1,), _bias(g, spec), f"{name}.pixels")
    return _image_from_nhwc(g, spec, y)


def _image_from_nhwc(g: SynthesisGraph, spec: LayerSpec, y: str) -> str:
    """Values in the order of `[N, H, W, C]`, in any shape, as `[N, C, H, W]`."""
    name = spec.name
    y = g.node("Reshape", [y, g.ints(0, spec.height, spec.width, spec.out_channels)], f"{name}.image")
    return g.node("Transpose", [y], name, perm=[0, 3, 1, 2])


def _bias(g: SynthesisGraph, spec: LayerSpec) -> np.ndarray:
    return g.array(f"{spec.name}.bias")


def _norm_bias_clamp(
    g: SynthesisGraph, spec: LayerSpec, y: str, style: RgbStyle, norm_axes: tuple[int, ...], bias: np.ndarray, output: str
) -> str:
    """`clamp(y * norm + bias)` in float32. New axes at `norm_axes` broadcast the norm `[N, 1]` over the pixels."""
    name, clamp = spec.name, g.cfg.conv_clamp
    if g.plan.float16:
        y = g.cast(y, f"{name}.single", np.float32)
    scale = g.constants[name].result_scale
    if style.norm is not None:
        norm = style.norm if scale == 1 else g.node("Mul", [style.norm, g.constant(scale)], f"{name}.norm_by_scale")
        norm = g.node("Unsqueeze", [norm, g.ints(*norm_axes)], f"{name}.norm_1")
        y = g.node("Mul", [y, norm], f"{name}.scaled")
    elif scale != 1:
        y = g.node("Mul", [y, g.constant(scale)], f"{name}.scaled")
    bias_weight = g.weight(f"{name}.bias", bias)
    if clamp is None:
        return g.node("Add", [y, bias_weight], output)
    y = g.node("Add", [y, bias_weight], f"{name}.biased")
    return g.node("Clip", [y, g.constant(-clamp), g.constant(clamp)], output)
