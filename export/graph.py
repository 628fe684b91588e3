"""A thin builder over `onnx.helper`: tensors by name, constants stored once, the same bytes for the same calls."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import DTypeLike
from onnx import helper, numpy_helper

from stylert.core.errors import CheckpointError
from stylert.plugins.onnx_functions import DOMAIN, check_nodes, function_protos, opset_imports

IR_VERSION = 10

#: Protocol buffers hold no larger message. A part of it is kept for the nodes.
MAX_WEIGHT_BYTES = 2**31 - 2**24

#: Sizes, names of dynamic sizes, or None for a size that is not stated.
Shape = Sequence[int | str | None]


class GraphBuilder:
    """Collects nodes and initializers in order. The caller names every tensor; the methods return the name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.shapes: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: Shape, dtype: DTypeLike = np.float32) -> str:
        self.inputs.append(_tensor_info(name, shape, dtype))
        return name

    def output(self, name: str, shape: Shape, dtype: DTypeLike = np.float32) -> None:
        self.outputs.append(_tensor_info(name, shape, dtype))

    def shape(self, name: str, shape: Shape, dtype: DTypeLike = np.float32) -> str:
        """State the shape of a tensor that shape inference cannot see, such as the result of an operator node."""
        self.shapes.append(_tensor_info(name, shape, dtype))
        return name

    def weight(self, name: str, value: np.ndarray) -> str:
        """An initializer under its own name. The same name may come again with the same value.

        Raises:
            ValueError: The name has another value already.
        """
        tensor = numpy_helper.from_array(np.array(value, order="C"), name)
        if self.initializers.setdefault(name, tensor) != tensor:
            raise ValueError(f"the graph has two initializers named {name}")
        return name

    def constant(self, value: Any, dtype: DTypeLike = np.float32) -> str:
        """A small constant. Equal constants share one initializer."""
        array = np.asarray(value, dtype=dtype)
        digest = hashlib.sha256(array.tobytes() + str((array.dtype, array.shape)).encode()).hexdigest()[:8]
        return self.weight(f"const_{array.dtype}_{digest}", array)

    def ints(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def node(self, op: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any) -> str:
        """Append a node with one output. The node and its output share the name."""
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, domain=domain, **attributes))
        return output

    def split(self, tensor: str, outputs: Sequence[str], size: int) -> None:
        """Split axis 1 into outputs of this size each."""
        sizes = self.ints(*[size] * len(outputs))
        self.nodes.append(helper.make_node("Split", [tensor, sizes], [*outputs], name=f"{tensor}_split", axis=1))

    def cast(self, tensor: str, output: str, dtype: DTypeLike) -> str:
        return self.node("Cast", [tensor], output, to=_tensor_type(dtype))

    def model(self) -> onnx.ModelProto:
        """The model, checked. It carries the function body of each `stylert` operator that it uses.

        Raises:
            CheckpointError: The weights exceed the size of an ONNX file.
        """
        used_operators = {node.op_type for node in self.nodes if node.domain == DOMAIN}
        read_tensors = {name for node in self.nodes for name in node.input}
        initializers = [tensor for name, tensor in self.initializers.items() if name in read_tensors]
        weight_bytes = sum(len(tensor.raw_data) for tensor in initializers)
        if weight_bytes > MAX_WEIGHT_BYTES:
            raise CheckpointError(f"the {self.name} network has {weight_bytes / 2**30:.1f} GiB; an ONNX file holds 2 GiB")
        graph = helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, initializers, value_info=self.shapes)
        model = helper.make_model(
            graph,
            functions=[function for function in function_protos() if function.name in used_operators],
            opset_imports=[opset for opset in opset_imports() if opset.domain != DOMAIN or used_operators],
            ir_version=IR_VERSION,
            producer_name="stylert",
        )
        check_nodes(model)
        onnx.checker.check_model(model, full_check=True)
        return model


def _tensor_type(dtype: DTypeLike) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def _tensor_info(name: str, shape: Shape, dtype: DTypeLike) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, _tensor_type(dtype), shape)
