"""Keeps OpenVINO's 8-bit convolutions exact on processors whose products of bytes saturate.

There OpenVINO 2026.4 runs two kinds of layers inexactly. A convolution saturates if two of its weights exceed the limit
of pairs. So does a transposed convolution with AVX2; with AVX-512, it halves its weights and rounds them. This module
gives such layers their weights in float32: their numbers stay the same, and only the time grows. The INT8 networks for
OpenVINO that stylert exports have no such layer with AVX2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stylert.core.machine.byte_products import PAIR_LIMIT, byte_pairs_saturate, pair_sums
from stylert.core.machine.host import instruction_sets

if TYPE_CHECKING:
    import onnx


def inexact_layers() -> str | None:
    """The kinds of 8-bit layers that are not exact on this processor: `pairs`, `pairs, transposed`, or None if all are exact."""
    if not byte_pairs_saturate():
        return None
    return "pairs, transposed" if "avx512f" in (instruction_sets() or []) else "pairs"


def make_products_exact(model: onnx.ModelProto, inexact: str) -> list[str]:
    """Give float32 weights to all layers of a network of plain operators that OpenVINO would not compute exactly.

    Args:
        model: The network. It is changed in place.
        inexact: As `inexact_layers` returns it.

    Returns:
        The names of these layers' convolutions.
    """
    import onnx

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    weights = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in constants}
    changed = []
    for node in graph.node:
        if node.op_type not in ("Conv", "ConvTranspose") or node.input[1] not in weights:
            continue
        dequantize = weights[node.input[1]]
        values, scales = (onnx.numpy_helper.to_array(constants[name]) for name in dequantize.input[:2])
        if values.dtype == np.int8 and not _is_exact(node, values, inexact):
            output_axis = 1 if node.op_type == "ConvTranspose" else 0
            shape = [-1 if axis == output_axis else 1 for axis in range(values.ndim)]
            weight = values.astype(np.float32) * scales.astype(np.float32).reshape(shape)
            graph.initializer.append(onnx.numpy_helper.from_array(weight, f"{node.input[1]}_float"))
            node.input[1] = f"{node.input[1]}_float"
            changed.append(node.name)
    return changed


def _is_exact(node: onnx.NodeProto, values: np.ndarray, inexact: str) -> bool:
    """Whether OpenVINO computes a layer with these weights `[O, I, k, k]`, or `[I, O, k, k]` if transposed, exactly."""
    if any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute):
        return True  # one input channel for each output channel, so no pairs
    if node.op_type == "ConvTranspose" and "transposed" in inexact:
        return not (values % 2).any()
    kernel = np.moveaxis(values, 1, 0) if node.op_type == "ConvTranspose" else values
    return bool(pair_sums(kernel).max(initial=0) <= PAIR_LIMIT)
