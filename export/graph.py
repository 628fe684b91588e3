"""A thin builder over `onnx.helper`: tensors by name, constants shared, output deterministic."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from stylert.plugins.onnx_functions import DOMAIN, function_protos, opset_imports

IR_VERSION = 10
#: Sizes, names of dynamic sizes, or None where a size is not stated.
Shape = Sequence[int | str | None]


class GraphBuilder:
    """Collects nodes and initialisers in order. Every tensor has the name that its maker gives it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.shapes: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: Shape, dtype: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str, shape: Shape, dtype: int = TensorProto.FLOAT) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, dtype, shape))

    def shape(self, name: str, shape: Shape, dtype: int = TensorProto.FLOAT) -> str:
        """State the shape of a tensor that shape inference cannot see, such as what an operator node returns."""
        self.shapes.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def weight(self, name: str, value: np.ndarray) -> str:
        """An initialiser under its own name."""
        self.initializers[name] = numpy_helper.from_array(np.array(value, order="C"), name)
        return name

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """A small constant, stored once however often it is used."""
        array = np.asarray(value, dtype=dtype)
        digest = hashlib.sha256(array.tobytes() + str((array.dtype, array.shape)).encode()).hexdigest()[:8]
        return self.weight(f"const_{array.dtype}_{digest}", array)

    def ints(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def node(self, op: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any) -> str:
        """Append one node with one output; the node carries the output's name."""
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, domain=domain, **attributes))
        return output

    def model(self) -> onnx.ModelProto:
        """The checked model; the operators' function bodies are attached where their nodes are used."""
        used = {n.op_type for n in self.nodes if n.domain == DOMAIN}
        read = {name for n in self.nodes for name in n.input}
        initializers = [t for name, t in self.initializers.items() if name in read]
        graph = helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, initializers, value_info=self.shapes)
        model = helper.make_model(
            graph,
            functions=[f for f in function_protos() if f.name in used],
            opset_imports=[o for o in opset_imports() if o.domain != DOMAIN or used],
            ir_version=IR_VERSION,
            producer_name="stylert",
        )
        if model.ByteSize() < 2**31:
            onnx.checker.check_model(model, full_check=True)
        return model
