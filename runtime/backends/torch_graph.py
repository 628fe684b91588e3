"""Runs a bundle's ONNX file in PyTorch, node by node: stylert's operators by its own kernels, all others by torch.

It needs neither the checkpoint nor the training code. It knows only the operators that the exporter writes into
floating-point networks, and refuses a file with any other before it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stylert.core.errors import BundleError
from stylert.runtime.session import TensorSpec

if TYPE_CHECKING:
    import torch

#: `(attributes, operands) -> result` of one ONNX node
Operator = Callable[[dict[str, Any], list[Any]], Any]


class TorchGraph:
    """The network of an ONNX file on a device. Calling it with named tensors returns its one output.

    Raises:
        BundleError: The file cannot be read, or it has an unknown operator.
    """

    def __init__(self, file: Path, device: str) -> None:
        import onnx
        import torch
        from onnx.numpy_helper import to_array

        try:
            graph = onnx.load(file).graph
        except Exception as e:  # protobuf's exceptions share no public base class
            raise BundleError(f"{file} is not a network that can be read: {' '.join(str(e).split())}") from None
        operators = _operators()
        unknown = sorted({node.op_type for node in graph.node} - set(operators))
        if unknown:
            raise BundleError(f"{file}: the torch backend does not know {', '.join(unknown)}")
        self._constants = {}
        for value in graph.initializer:
            # Whole numbers are shapes, axes and indices. They stay on the host, where reading them needs no wait.
            constant_device = "cpu" if value.data_type == onnx.TensorProto.INT64 else device
            self._constants[value.name] = torch.from_numpy(to_array(value).copy()).to(constant_device)
        self._nodes = [
            Node(
                operators[node.op_type],
                {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute},
                list(node.input),
                node.output[0],
            )
            for node in graph.node
        ]
        #: The output's name of every node, in the order in which they run
        self.results = [node.output for node in self._nodes]
        self.image = _tensor_spec(graph.output[0])
        self._last_use = {name: i for i, node in enumerate(self._nodes) for name in node.inputs}

    def __call__(
        self,
        inputs: Mapping[str, torch.Tensor],
        node_context: Callable[[int], AbstractContextManager[Any]] | None = None,
    ) -> torch.Tensor:
        """The images. `node_context` returns the context manager in which the node of an index runs, for profiling."""
        values = dict(inputs)
        for i, node in enumerate(self._nodes):
            operands = [values[name] if name in values else self._constants[name] for name in node.inputs]
            with nullcontext() if node_context is None else node_context(i):
                values[node.output] = node.operator(node.attributes, operands)
            for name in node.inputs:
                if self._last_use[name] == i:
                    values.pop(name, None)  # frees the activation
        return values[self.image.name]


class Node(NamedTuple):
    operator: Operator
    attributes: dict[str, Any]
    inputs: list[str]
    output: str


def _tensor_spec(value_info: Any) -> TensorSpec:
    import onnx

    kind = value_info.type.tensor_type
    shape = tuple(d.dim_value for d in kind.shape.dim)[1:]
    return TensorSpec(value_info.name, False, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type), shape)


def _operators() -> dict[str, Operator]:
    """The function of every known ONNX operator."""
    import torch

    from stylert.plugins import ops

    onnx_types = {1: torch.float32, 2: torch.uint8, 10: torch.float16}

    def upfirdn2d(a: dict[str, Any], x: list[Any]) -> Any:
        top, bottom, left, right = a["padding"]
        padding = (left, right, top, bottom)
        up, down = tuple(a["up"])[::-1], tuple(a["down"])[::-1]
        return ops.upfirdn2d(x[0], x[1], up, down, padding, bool(a["flip"]), a["gain"])

    def modulated_conv2d(a: dict[str, Any], x: list[Any]) -> Any:
        activation = "linear" if a["alpha"] == 1 else "lrelu"
        image, weight, style, demod, noise, bias, f = x
        image = image.expand(style.shape[0], -1, -1, -1)
        return ops.modulated_conv2d(
            image,
            weight,
            style,
            demod,
            noise,
            bias,
            up=a["up"],
            f=f if a["up"] == 2 else None,
            activation=activation,
            gain=a["gain"],
            clamp=a["clamp"] or None,
        )

    def conv(a: dict[str, Any], x: list[Any]) -> Any:
        top, left, bottom, right = a.get("pads", [0, 0, 0, 0])
        padded = torch.nn.functional.pad(x[0], (left, right, top, bottom)) if any(a.get("pads", [])) else x[0]
        bias = x[2] if len(x) > 2 else None
        return torch.nn.functional.conv2d(padded, x[1], bias, a.get("strides", [1, 1]), groups=a.get("group", 1))

    def slice_(a: dict[str, Any], x: list[Any]) -> Any:
        data, starts, ends, axes = x[0], *(v.tolist() for v in x[1:4])
        for start, end, axis in zip(starts, ends, axes, strict=True):
            length = data.shape[axis]
            start, end = (min(n + length if n < 0 else n, length) for n in (start, end))
            data = data.narrow(axis, start, end - start)
        return data

    def reshape(a: dict[str, Any], x: list[Any]) -> Any:
        return x[0].reshape([x[0].shape[i] if n == 0 else n for i, n in enumerate(x[1].tolist())])

    def gather(a: dict[str, Any], x: list[Any]) -> Any:
        axis = a.get("axis", 0)
        if x[1].ndim == 0:
            return x[0].select(axis, int(x[1]))
        indices = x[1].tolist()
        # An index tensor would have to be copied to the device first.
        return torch.stack([x[0].select(axis, i) for i in indices], axis)

    def unsqueeze(a: dict[str, Any], x: list[Any]) -> Any:
        for axis in sorted(x[1].tolist()):
            x[0] = x[0].unsqueeze(axis)
        return x[0]

    return {
        "Upfirdn2d": upfirdn2d,
        "ModulatedConv2d": modulated_conv2d,
        "Conv": conv,
        "Add": lambda a, x: x[0] + x[1],
        "Mul": lambda a, x: x[0] * x[1],
        "Div": lambda a, x: x[0] / x[1],
        "MatMul": lambda a, x: x[0] @ x[1],
        "Sqrt": lambda a, x: x[0].sqrt(),
        "Reciprocal": lambda a, x: x[0].reciprocal(),
        "Floor": lambda a, x: x[0].floor(),
        "Identity": lambda a, x: x[0],
        "Clip": lambda a, x: x[0].clamp(x[1], x[2]),
        "Cast": lambda a, x: x[0].to(onnx_types[a["to"]]),
        "Transpose": lambda a, x: x[0].permute(*a["perm"]),
        "ReduceSum": lambda a, x: x[0].sum(x[1].tolist(), keepdim=bool(a.get("keepdims", 1))),
        "Slice": slice_,
        "Reshape": reshape,
        "Gather": gather,
        "Unsqueeze": unsqueeze,
    }
