"""The graph of an ONNX model, for finding chains of nodes in it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx


class OnnxGraph:
    """The graph of an ONNX model, by tensor.

    Attributes:
        readers: How many inputs of nodes read a tensor.
        outputs: Names of the model's outputs.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._makers = {output: node for node in model.graph.node for output in node.output}
        self._reader = {name: node for node in model.graph.node for name in node.input}
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.readers = Counter(name for node in model.graph.node for name in node.input)
        self.outputs = {value.name for value in model.graph.output}

    def made_by(self, name: str, operator: str) -> onnx.NodeProto | None:
        """The node of this operator that makes a tensor, or None."""
        node = self._makers.get(name)
        return node if node is not None and node.op_type == operator else None

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """The one node that reads a tensor, or None if there are more or the tensor is an output."""
        return self._reader[name] if self.readers[name] == 1 and name not in self.outputs else None

    def constant(self, name: str) -> np.ndarray | None:
        """The value of a constant, or None."""
        from onnx.numpy_helper import to_array

        return to_array(self._constants[name]) if name in self._constants else None

    def equals(self, name: str, value: Any) -> bool:
        """Whether a tensor is the constant `value`."""
        array = self.constant(name)
        return array is not None and array.shape == np.shape(value) and bool((array == np.asarray(value)).all())

    @staticmethod
    def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
        from stylert.plugins.onnx_functions import node_attributes

        return node_attributes(node).get(name, default)

    def entry(self, name: str, axis: int) -> tuple[str, int, int | None] | None:
        """A tensor as `stacked[index]`, cut to a size along `axis` of the entry.

        Returns:
            The stacked tensor, the index, and the size, or None for the whole; None if it is no such entry.
        """
        size = None
        if (cut := self.made_by(name, "Slice")) is not None:
            ends = self.constant(cut.input[2])
            if not self.equals(cut.input[1], [0]) or not self.equals(cut.input[3], [axis]) or ends is None:
                return None
            name, size = cut.input[0], int(ends[0])
        gather = self.made_by(name, "Gather")
        index = None if gather is None else self.constant(gather.input[1])
        if gather is None or index is None or index.ndim or index < 0 or self.attribute(gather, "axis", 0) != 0:
            return None
        return gather.input[0], int(index), size
