"""Follows a tensor through the nodes behind it, which a launch may replace only if nothing else reads what lies between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stylert.runtime.backends.torch_network.onnx_graph import OnnxGraph

if TYPE_CHECKING:
    import onnx


class NodeChain:
    """A tensor, followed from node to node as long as one node alone reads it.

    Attributes:
        output: The tensor that the last node makes.
    """

    def __init__(self, graph: OnnxGraph, node: onnx.NodeProto) -> None:
        self._graph, self.output = graph, node.output[0]

    def skip(self, operator: str, **attributes: Any) -> None:
        """Follow a node with these attributes, if it comes next."""
        node = self._next(operator)
        if node is not None and all(self._graph.attribute(node, name) == value for name, value in attributes.items()):
            self.output = node.output[0]

    def other_factor(self) -> str | None:
        """Follow a product, if it comes next, and return its other factor."""
        node = self._next("Mul")
        return None if node is None else self._other_operand(node)

    def added_constant(self) -> np.ndarray | None:
        """Follow the addition of a constant, `[1, C, 1]`, if it comes next, and return that."""
        node = self._next("Add")
        if node is None:
            return None
        constant = self._graph.constant(self._other_operand(node))
        return constant if constant is not None and constant.ndim == 3 and constant.shape[::2] == (1, 1) else None

    def clamp(self) -> float:
        """Follow a clip to a symmetric range, if it comes next, and return its bound. 0 is no bound."""
        node = self._next("Clip")
        if node is None:
            return 0.0
        low, high = (self._graph.constant(name) for name in node.input[1:])
        if low is None or high is None or low.ndim or high.ndim or not float(high) == -float(low) > 0:
            return 0.0
        self.output = node.output[0]
        return float(high)

    def reshaped_image(self) -> tuple[int, int] | None:
        """Follow a reshape to `[N, C, H, W]`, if it comes next, and return H and W."""
        node = self._next("Reshape")
        shape = None if node is None else self._graph.constant(node.input[1])
        if node is None or shape is None or shape.shape != (4,) or list(shape[:2]) != [0, 0] or min(shape[2:]) < 1:
            return None
        self.output = node.output[0]
        return int(shape[2]), int(shape[3])

    def added_upsampling(self) -> tuple[str | None, np.ndarray | None]:
        """Follow the addition of an image that is upsampled for it, if that comes next. Returns that image and the filter."""
        from stylert.plugins.onnx_functions import DOMAIN, node_attributes
        from stylert.plugins.onnx_nodes import Upfirdn2dNode
        from stylert.plugins.shapes import Resampling

        node = self._next("Add")
        if node is None:
            return None, None
        upsampled = next((name for name in node.input if name != self.output), "")
        fir = self._graph.made_by(upsampled, "Upfirdn2d")
        if fir is None or fir.domain != DOMAIN or self._graph.only_reader(upsampled) is None:
            return None, None
        f = self._graph.constant(fir.input[1])
        spec = Upfirdn2dNode.of(node_attributes(fir)).resampling
        if f is None or f.shape != (4, 4) or f.dtype != np.float32 or spec != Resampling.upsampling((4, 4), 2):
            return None, None
        self.output = node.output[0]
        return fir.input[0], f

    def _next(self, operator: str) -> onnx.NodeProto | None:
        node = self._graph.only_reader(self.output)
        return node if node is not None and node.op_type == operator else None

    def _other_operand(self, node: onnx.NodeProto) -> str:
        first, second = node.input
        other: str = second if first == self.output else first
        self.output = node.output[0]
        return other
