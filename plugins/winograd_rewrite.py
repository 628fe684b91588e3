"""Rewrites ModulatedConv2d nodes of an ONNX network into Winograd's form (`winograd_nodes.py`).

The exporter does this for the layers that a plan gives this form, and the runtime for those of the processor's default
plan. Between two rewritten layers the activations stay lists of pixels. torgb reads such a list as well, and any other
reader gets the image `[N, C, H, W]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from stylert.plugins.onnx_functions import DOMAIN, node_attributes
from stylert.plugins.onnx_nodes import ModulatedConv2dNode
from stylert.plugins.winograd import TAPS
from stylert.plugins.winograd_nodes import Layer, PixelList, image_to_pixels, pixels_to_image, winograd_layer


@dataclass(frozen=True)
class ConvNode:
    """A ModulatedConv2d node that can be rewritten.

    It has a 3x3 kernel, constant float32 weights, bias and filter, and a size that the model states.

    Attributes:
        name: The node's name.
        in_channels: I.
        out_channels: O.
        size: H and W of its input.
        up: 1 or 2.
    """

    name: str
    in_channels: int
    out_channels: int
    size: tuple[int, int]
    up: int


def rewrite_as_winograd(model: onnx.ModelProto, tile_of: Callable[[ConvNode], int | None]) -> list[ConvNode]:
    """Rewrite nodes in place.

    Args:
        model: A network whose nodes `check_nodes` accepts.
        tile_of: The tile size for a node, 2 or 4, or None to leave it.

    Returns:
        The rewritten nodes.
    """
    tiles = {conv.name: tile for _, conv, _ in _rewritable(model.graph) if (tile := tile_of(conv)) is not None}
    layers = {node.name: (conv, layer) for node, conv, layer in _rewritable(model.graph) if conv.name in tiles}
    if not layers:
        return []
    graph = _RewrittenGraph(model.graph)
    for node in list(model.graph.node):
        if node.domain == DOMAIN and node.name in layers:
            conv, layer = layers[node.name]
            x = graph.pixels(node.input[0], conv)
            graph.lists[node.output[0]] = winograd_layer(graph, node.name, x, layer, tiles[node.name]), conv.out_channels
        else:
            graph.copy(node)
    graph.finish(model)
    return [conv for conv, _ in layers.values()]


class _RewrittenGraph:
    """The nodes of the new graph while they are written. It is a `winograd_nodes.Graph`."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._outputs = {output.name for output in graph.output}
        self._shape_constants = {
            t.name: numpy_helper.to_array(t) for t in graph.initializer if t.data_type == TensorProto.INT64
        }
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for tensor in node.input:
                self._readers.setdefault(tensor, []).append(node)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[str, bytes, tuple[int, ...]], str] = {}
        self._initializers: list[onnx.TensorProto] = []
        self._images: set[str] = set()
        #: The outputs of rewritten nodes, each with its channels.
        self.lists: dict[str, tuple[PixelList, int]] = {}
        #: Flat images of them, which torgb multiplies by its weights, and which are not made.
        self._flat: dict[str, PixelList] = {}

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(self, value: np.ndarray) -> str:
        key = (str(value.dtype), value.tobytes(), value.shape)
        if key not in self._constants:
            self._constants[key] = f"winograd_constant_{len(self._constants)}"
            self._initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), self._constants[key]))
        return self._constants[key]

    def pixels(self, tensor: str, conv: ConvNode) -> PixelList:
        """A layer's input as a list of pixels."""
        if tensor in self.lists:
            return self.lists[tensor][0]
        return image_to_pixels(self, f"{conv.name}.input", tensor, conv.size, conv.in_channels)

    def copy(self, node: onnx.NodeProto) -> None:
        """Append a node of the old graph. If it reads a list of pixels, it gets what it expects instead."""
        if self._reads_flat_list(node):
            self._flat[node.output[0]] = self.lists[node.input[0]][0]
        elif len(node.input) == 2 and node.input[1] in self._flat:
            # The product from the right has a few channels, which are cheap to reorder. The list stays as it is.
            weights, pixels, name = node.input[0], self._flat[node.input[1]], node.output[0]
            columns = self.node("Transpose", [weights], f"{name}.columns", perm=[0, 2, 1])
            product = self.node("MatMul", [pixels.tensor, columns], f"{name}.unordered")
            rows = self.node("Gather", [product, self.constant(pixels.order.reshape(-1))], f"{name}.rows", axis=1)
            self.node("Transpose", [rows], name, perm=[0, 2, 1])
        else:
            for tensor in node.input:
                self._image(tensor)
            self._nodes.append(node)

    def _reads_flat_list(self, node: onnx.NodeProto) -> bool:
        """Whether a node reshapes a list's image to `[N, C, H W]`, and only products from the left read the result."""
        if node.op_type != "Reshape" or node.input[0] not in self.lists or node.output[0] in self._outputs:
            return False
        readers = self._readers.get(node.output[0], [])
        flattens = np.array_equal(self._shape_constants.get(node.input[1], []), [0, 0, -1])
        return flattens and all(r.op_type == "MatMul" and r.input[0] != node.output[0] for r in readers)

    def _image(self, tensor: str) -> None:
        """Make sure that the image of a list of pixels exists under the tensor's own name."""
        if tensor in self.lists and tensor not in self._images:
            pixels, channels = self.lists[tensor]
            pixels_to_image(self, tensor, pixels, channels)
            self._images.add(tensor)

    def finish(self, model: onnx.ModelProto) -> None:
        """Put the new nodes and constants into the model, and remove what nothing uses any more."""
        for output in self._outputs:
            self._image(output)
        graph = model.graph
        read = {tensor for node in self._nodes for tensor in node.input}
        _keep(graph.initializer, lambda tensor: tensor.name in read)
        graph.initializer.extend(self._initializers)
        _keep(graph.value_info, lambda value: value.name not in self.lists or value.name in self._images)
        del graph.node[:]
        graph.node.extend(self._nodes)
        operators = {node.op_type for node in graph.node if node.domain == DOMAIN}
        _keep(model.functions, lambda function: function.name in operators)


def _keep(messages: Any, wanted: Callable[[Any], bool]) -> None:
    """Delete the other messages of a repeated field. Weights that stay are not copied."""
    for i in reversed(range(len(messages))):
        if not wanted(messages[i]):
            del messages[i]


def _rewritable(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, ConvNode, Layer]]:
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    sizes = _stated_sizes(graph)
    for node in graph.node:
        if node.domain != DOMAIN or node.op_type != "ModulatedConv2d" or not node.name or len(node.output) != 1:
            continue
        _, weight, style, demod, noise, bias, fir = node.input
        size = sizes.get(node.output[0])
        noise_value, bias_value, taps = (_float32(tensors.get(name)) for name in (noise, bias, fir))
        shape = _float32_shape(tensors.get(weight))
        if size is None or shape is None or shape[2:] != (TAPS, TAPS) or bias_value is None or taps is None:
            continue
        attributes = ModulatedConv2dNode.of(node_attributes(node))
        layer_noise = noise_value if noise_value is not None and len(noise_value) == 1 else noise
        layer = Layer(weight, shape, style, demod, layer_noise, bias_value, taps, attributes)
        height, width = (side // attributes.up for side in size)
        yield node, ConvNode(node.name, shape[1], shape[0], (height, width), attributes.up), layer


def _float32_shape(tensor: onnx.TensorProto | None) -> tuple[int, ...] | None:
    return tuple(tensor.dims) if tensor is not None and tensor.data_type == TensorProto.FLOAT else None


def _float32(tensor: onnx.TensorProto | None) -> np.ndarray | None:
    return None if tensor is None or _float32_shape(tensor) is None else numpy_helper.to_array(tensor)


def _stated_sizes(graph: onnx.GraphProto) -> Mapping[str, tuple[int, int]]:
    """Height and width of every tensor `[N, C, H, W]` whose size the graph states."""
    sizes = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if len(dims) == 4 and dims[2].dim_value > 0 and dims[3].dim_value > 0:
            sizes[value.name] = (dims[2].dim_value, dims[3].dim_value)
    return sizes
