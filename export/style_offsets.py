"""Writes the ONNX nodes that add the input `style_offsets` to the styles of all layers, for moves in the StyleSpace.

The offsets are in units of the checkpoint's own affine layers, in the order of `GeneratorConfig.layers()`. A style of the graph
has a scale of its own, so each offset is multiplied by that scale.
"""

from __future__ import annotations

import numpy as np

from stylert.export.synthesis_graph import SynthesisGraph
from stylert.models.stylegan2.config import LayerSpec
from stylert.models.stylegan2.style_space import style_slices


def offset_styles(g: SynthesisGraph, layers: list[LayerSpec], styles: str, offsets: str, width: int) -> str:
    """Add offsets to styles.

    Args:
        g: The graph.
        layers: The layers, in the order of `styles`.
        styles: `[L, N, width]`.
        offsets: `[N, S]`.
        width: The width of the widest layer.

    Returns:
        The sum, `[L, N, width]`.
    """
    places = style_slices(g.cfg)
    columns = np.zeros((len(layers), width), np.int64)  # the padding reads any column, and multiplies it by zero
    scale = np.zeros((len(layers), 1, width), np.float32)
    for i, spec in enumerate(layers):
        columns[i, : spec.in_channels] = np.arange(places[spec.name].start, places[spec.name].stop)
        scale[i, 0, : spec.in_channels] = g.constants[spec.name].style_scale
    padded = g.node("Gather", [offsets, g.weight("style_offsets.columns", columns.reshape(-1))], "style_offsets_padded", axis=1)
    by_layer = g.node("Reshape", [padded, g.ints(0, len(layers), width)], "style_offsets_by_layer")
    layer_first = g.node("Transpose", [by_layer], "style_offsets_layer_first", perm=[1, 0, 2])
    scaled = g.node("Mul", [layer_first, g.weight("style_offsets.scale", scale)], "style_offsets_scaled")
    return g.node("Add", [styles, scaled], "styles_with_offsets")
