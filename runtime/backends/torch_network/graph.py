"""Runs a bundle's ONNX file in PyTorch, node by node: stylert's operators by its own kernels, all others by torch.

It needs neither the checkpoint nor the training code. It knows only the operators, attributes and inputs that the
exporter writes into floating-point networks. It refuses a file with any other before it runs. On a GPU one launch
replaces the nodes of a layer (`fusion`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stylert.core.errors import BackendError, BundleError, shown_line
from stylert.runtime.backends.torch_network.fusion import fused_nodes, kernels_run_on
from stylert.runtime.backends.torch_network.operators import Node, Run, own_operators, plain_operators
from stylert.runtime.session import TensorSpec, closed_shape

if TYPE_CHECKING:
    import onnx
    import torch

#: `(node, operands) -> context manager` in which a node runs
NodeContext = Callable[[Node, list[Any]], AbstractContextManager[Any]]


class TorchGraph:
    """The network of an ONNX file on a device. Calling it with named tensors returns its one output.

    Attributes:
        nodes: The nodes in the order in which they run.
        tensors: The network's inputs and its output.
        image: The output.
        device: The device that holds the weights.

    Raises:
        BundleError: The file cannot be read, or the backend does not know a node of it.
        BackendError: There is too little memory to read it.
    """

    def __init__(self, file: Path, device: str) -> None:
        import onnx
        import torch
        from onnx.numpy_helper import to_array

        try:
            model = onnx.load(file)
        except MemoryError:
            raise BackendError(f"not enough memory to read {file}") from None
        except Exception as e:  # protobuf's exceptions share no public base class
            raise BundleError(f"{file} is not a network that can be read: {shown_line(str(e))}") from None
        try:
            nodes = _nodes(model)
        except ValueError as e:
            raise BundleError(f"{file}: {shown_line(str(e))}") from None
        self.device = device
        on_kernels = kernels_run_on(device)
        self.replace_nodes(fused_nodes(model, nodes, device) if on_kernels else nodes)
        read = {name for node in self.nodes for name in node.inputs}
        self._constants = {}
        for value in model.graph.initializer:
            if value.name in read:
                # Whole numbers are shapes, axes and indices. They stay on the host, where reading them needs no wait.
                constant_device = "cpu" if value.data_type == onnx.TensorProto.INT64 else device
                constant = torch.from_numpy(to_array(value).copy()).to(constant_device)
                if on_kernels and constant.ndim == 4:
                    constant = constant.contiguous(memory_format=torch.channels_last)  # as the kernels take activations
                self._constants[value.name] = constant
        graph = model.graph
        self.tensors = [_tensor_spec(value, True) for value in graph.input] + [
            _tensor_spec(value, False) for value in graph.output
        ]
        self.image = next(tensor for tensor in self.tensors if not tensor.is_input)

    def replace_nodes(self, nodes: list[Node]) -> None:
        """Run other nodes from now on. They may read the constants that the present ones read."""
        self.nodes = nodes
        self._last_use = {name: i for i, node in enumerate(nodes) for name in node.inputs}

    def __call__(self, inputs: Mapping[str, torch.Tensor], node_context: NodeContext | None = None) -> torch.Tensor:
        """The images. Each node runs in the context manager that `node_context` returns, for profiles and calibration."""
        values = dict(inputs)
        for i, node in enumerate(self.nodes):
            operands = [values[name] if name in values else self._constants[name] for name in node.inputs]
            with nullcontext() if node_context is None else node_context(node, operands):
                made = node.run(operands)
            values.update(zip(node.outputs, made if isinstance(made, tuple) else (made,), strict=True))
            for name in node.inputs:
                if self._last_use[name] == i:
                    values.pop(name, None)  # frees the activation
        return values[self.image.name]


def _tensor_spec(value_info: Any, is_input: bool) -> TensorSpec:
    import onnx

    kind = value_info.type.tensor_type
    shape = closed_shape([d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim])
    return TensorSpec(value_info.name, is_input, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type), shape)


def _nodes(model: onnx.ModelProto) -> list[Node]:
    """The nodes of the network, ready to run, one for each node of the model.

    Raises:
        ValueError: A node that the backend does not know, or that reads a tensor which no earlier node makes.
    """
    from stylert.plugins.onnx_functions import DOMAIN, check_nodes, node_attributes
    from stylert.plugins.onnx_nodes import NODES

    graph, own, plain = model.graph, own_operators(), plain_operators()
    known = {(DOMAIN, name) for name in own} | {("", name) for name in plain}
    unknown = {node.op_type for node in graph.node if (node.domain, node.op_type) not in known}
    if unknown:
        raise ValueError(f"the torch backend does not know {', '.join(sorted(unknown))}")
    check_nodes(model)
    nodes = []
    made = {value.name for value in (*graph.input, *graph.initializer)}
    for node in graph.node:
        missing = sorted(set(node.input) - made - {""})
        if missing or len(node.output) != 1:
            raise ValueError(f"node {node.name!r} reads {', '.join(missing)}, which is not made, or has not one output")
        attributes = node_attributes(node)
        run: Run
        if node.domain == DOMAIN:
            run = partial(own[node.op_type], NODES[node.op_type].of(attributes))
        else:
            run = plain[node.op_type].bind(node, attributes)
        nodes.append(Node(node.output[0], run, tuple(node.input), (node.output[0],)))
        made.add(node.output[0])
    if len(graph.output) != 1 or graph.output[0].name not in made:
        raise ValueError(f"the network must make one output, not {', '.join(o.name for o in graph.output) or 'none'}")
    return nodes
