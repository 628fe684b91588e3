"""Gives an 8-bit network the symmetric steps that TensorRT and TensorRT-RTX demand.

The canonical INT8 network of a bundle has ranges with a zero point, and also quantises what convolutions write, which suits
ONNX Runtime. Both libraries take no zero point. A bundle may hold a network of their own, from
`stylert export --backend tensorrt`. If it has none, these steps are derived when an engine is built.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

#: The greatest level of a symmetric int8 range, and that of a uint8 range
INT8_MAX, UINT8_MAX = 127, 255
CONVOLUTIONS = ("Conv", "ConvTranspose")


def symmetric_rewrite(precision: str) -> Callable[[onnx.ModelProto], object] | None:
    """The rewrite of `lowering.lower` for a network that TensorRT or TensorRT-RTX builds; None if it needs none."""
    return make_symmetric if precision == "int8" else None


def make_symmetric(model: onnx.ModelProto) -> int:
    """Change the activations' quantisation of a network of plain operators in place.

    - A quantised result of a convolution stays float: the next input is quantised anyway, so nothing is lost.
    - Every other uint8 range becomes the least symmetric int8 range that holds it. Its steps are up to twice as large.

    Returns:
        The number of ranges that were changed.
    """
    from onnx import numpy_helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    changed = 0
    renamed: dict[str, str] = {}
    kept = []
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
        if _has_zero_point(node, constants):
            source = _source(node, makers)
            if source is not None and source.op_type in CONVOLUTIONS:
                renamed[node.output[0]] = node.input[0]
                continue
            scale = numpy_helper.to_array(constants[node.input[1]])
            zero = int(numpy_helper.to_array(constants[node.input[2]]))
            widest = np.float64(scale) * max(zero, UINT8_MAX - zero)
            for index, value in ((1, (widest / INT8_MAX).astype(scale.dtype)), (2, np.zeros(scale.shape, np.int8))):
                name = f"{node.output[0]}.symmetric{index}"
                graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
                node.input[index] = name
            changed += node.op_type == "QuantizeLinear"
        kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    read = {name for node in kept for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)
    del graph.value_info[:]  # it has the types of before
    return changed


def _has_zero_point(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    """Whether it is a node of a constant uint8 range."""
    import onnx

    if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 3:
        return False
    scale, zero = (constants.get(name) for name in node.input[1:3])
    return scale is not None and zero is not None and zero.data_type == onnx.TensorProto.UINT8 and not zero.dims


def _source(node: onnx.NodeProto, makers: dict[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """The node whose result is quantised: in front of QuantizeLinear, also behind rearrangements of its levels."""
    maker = makers.get(node.input[0])
    while maker is not None and maker.op_type in ("Transpose", "Reshape", "DepthToSpace", "QuantizeLinear", "Identity"):
        maker = makers.get(maker.input[0])
    return maker
