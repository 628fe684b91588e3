"""Prepares a network for the TensorRT plugins: weights folded and laid out ahead, torgb on channels-last activations.

The result computes the same images, but only the plugins run it: the function bodies take other weights. It is made when
an engine is built, so a bundle holds no second network.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

from stylert.plugins.fir_folding import channels_last_phases
from stylert.plugins.onnx_functions import DOMAIN


def operator_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes of a network that the plugins run."""
    return [node for node in model.graph.node if node.domain == DOMAIN]


def prepare_for_plugins(model: onnx.ModelProto) -> None:
    """Change a network with operator nodes in place.

    - The constant weight of every ModulatedConv2d becomes `[P, O, K, K, I]` (`fir_folding.channels_last_phases`). The
      kernel then reads it along its channels, and does not fold the FIR again for every tile.
    - A torgb that multiplies `[N, C, I]` with activations `[N, I, H W]` takes these activations as `[N, H W, I]`. So
      they stay channels last from one plugin to the next.

    Args:
        model: It has passed `onnx_functions.check_nodes`.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    _fold_weights(model.graph, constants)
    _multiply_by_rows(model.graph)
    read = {name for node in model.graph.node for name in node.input}
    unread = [tensor for tensor in model.graph.initializer if tensor.name not in read]
    for tensor in unread:
        model.graph.initializer.remove(tensor)


def _fold_weights(graph: onnx.GraphProto, constants: dict[str, onnx.TensorProto]) -> None:
    folded: dict[str, str] = {}
    for node in graph.node:
        if not _is_convolution(node):
            continue
        up = next(attribute.i for attribute in node.attribute if attribute.name == "up")
        name, f = node.input[1], node.input[6]
        if name not in constants or (up == 2 and f not in constants):
            continue  # the plugin refuses a weight that is not constant, and folds with a computed filter itself
        key = f"{name}.folded{up}"
        if key not in folded:
            taps = numpy_helper.to_array(constants[f]) if up == 2 else None
            weight = channels_last_phases(numpy_helper.to_array(constants[name]), taps)
            graph.initializer.append(numpy_helper.from_array(weight, key))
            folded[key] = key
        node.input[1] = key


def _is_convolution(node: onnx.NodeProto) -> bool:
    return (node.domain, node.op_type) == (DOMAIN, "ModulatedConv2d")


def _multiply_by_rows(graph: onnx.GraphProto) -> None:
    """Rewrite `A [N, C, I] @ Reshape(x)`, x `[N, I, H, W]` the result of a plugin, as the product of rows of pixels."""
    makers = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        flat = makers.get(node.input[1]) if node.op_type == "MatMul" else None
        if flat is None or not _flattens_planes(flat, makers, constants):
            nodes.append(node)
        else:
            nodes.extend(_product_of_rows(graph, node, flat.input[0]))
    read = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
    del graph.node[:]
    graph.node.extend(node for node in nodes if any(output in read for output in node.output))


def _flattens_planes(node: onnx.NodeProto, makers: dict[str, onnx.NodeProto], constants: dict[str, onnx.TensorProto]) -> bool:
    """Whether a node reshapes the result of an operator node to `[N, I, H W]`."""
    if node.op_type != "Reshape" or node.input[1] not in constants:
        return False
    maker = makers.get(node.input[0])
    shape = numpy_helper.to_array(constants[node.input[1]]).tolist()
    return maker is not None and _is_convolution(maker) and shape == [0, 0, -1]


def _product_of_rows(graph: onnx.GraphProto, product: onnx.NodeProto, x: str) -> Iterator[onnx.NodeProto]:
    """`A @ X` as `(X^T A^T)^T`: X^T is x channels last, with a row per pixel."""
    factor, name = product.input[0], product.output[0]
    shape = f"{name}.rows_shape"
    # [N, H, W, I] to [N, H W, I]: 0 copies the first size, and the last is that of the factor's rows.
    sizes = np.array([0, -1, _channels(graph, x)], np.int64)
    graph.initializer.append(numpy_helper.from_array(sizes, shape))
    yield helper.make_node("Transpose", [x], [f"{name}.nhwc"], f"{name}.nhwc", perm=[0, 2, 3, 1])
    yield helper.make_node("Reshape", [f"{name}.nhwc", shape], [f"{name}.rows"], f"{name}.rows")
    yield helper.make_node("Transpose", [factor], [f"{name}.columns"], f"{name}.columns", perm=[0, 2, 1])
    yield helper.make_node("MatMul", [f"{name}.rows", f"{name}.columns"], [f"{name}.pixels"], f"{name}.pixels")
    yield helper.make_node("Transpose", [f"{name}.pixels"], [name], product.name or name, perm=[0, 2, 1])


def _channels(graph: onnx.GraphProto, tensor: str) -> int:
    """The number of channels that an operator node writes: its attribute `group`."""
    maker = next(node for node in graph.node if tensor in node.output)
    return int(next(attribute.i for attribute in maker.attribute if attribute.name == "group"))
