"""The ONNX operators that the torch backend knows: stylert's own, and those that the exporter writes into float networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from stylert.core.errors import BundleError

if TYPE_CHECKING:
    import onnx

    from stylert.plugins.onnx_nodes import ModulatedConv2dNode, Upfirdn2dNode

#: `operands -> result` of one node. A launch that replaces several nodes may return a tuple.
Run = Callable[[list[Any]], Any]


class Node(NamedTuple):
    """A step of a network.

    Attributes:
        name: The layer, or the tensor that it makes.
        run: Computes the results from the operands.
        inputs: Names of the tensors that it reads.
        outputs: Names of the tensors that it makes.
    """

    name: str
    run: Run
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Operator(NamedTuple):
    """A plain operator of ONNX.

    Attributes:
        run: `(attributes, operands) -> result`.
        inputs: Allowed numbers of inputs.
        attributes: Name to default. A type in place of a default makes the attribute necessary.
    """

    run: Callable[[dict[str, Any], list[Any]], Any]
    inputs: tuple[int, ...] = (1,)
    attributes: Mapping[str, Any] = MappingProxyType({})

    def bind(self, node: onnx.NodeProto, given: Mapping[str, Any]) -> Run:
        """The function that runs `node`, which has the attributes `given`.

        Raises:
            ValueError: Another number of inputs, or an attribute that is unknown, missing, or of another type or count.
        """
        name = node.op_type
        if len(node.input) not in self.inputs or not all(node.input):
            raise ValueError(f"{name} has {len(node.input)} inputs, not {' or '.join(map(str, self.inputs))}")
        unknown = sorted(given.keys() - self.attributes.keys())
        if unknown:
            raise ValueError(f"the torch backend does not know the attribute {', '.join(unknown)} of {name}")
        attributes = {key: given.get(key, default) for key, default in self.attributes.items()}
        for key, value in attributes.items():
            _check_attribute(f"{key} of {name}", value, self.attributes[key])
        return partial(self.run, attributes)


def own_operators() -> dict[str, Callable[[Any, list[Any]], Any]]:
    """The operators of domain `stylert` by name, as `(node, operands) -> result`."""
    import torch

    from stylert.plugins import ops

    def upfirdn2d(node: Upfirdn2dNode, operands: list[Any]) -> Any:
        check_shapes(node, operands)
        x, f = operands
        spec = node.resampling
        return ops.upfirdn2d(x, f, spec.up, spec.down, spec.padding, spec.flip, spec.gain)

    def modulated_conv2d(node: ModulatedConv2dNode, operands: list[Any]) -> Any:
        check_shapes(node, operands)
        x, weight, style, demod, noise, bias, f = operands
        x = x.expand(style.shape[0], -1, -1, -1)
        f = f if node.up == 2 else None
        layer = partial(ops.modulated_conv2d, x, weight, style, demod, noise, bias, up=node.up, f=f)
        slope, gain, clamp = node.epilogue.slope, node.epilogue.gain, node.epilogue.clamp
        activation = node.epilogue.activation
        if activation is not None:
            return layer(activation=activation, gain=gain, clamp=clamp or None)
        y = torch.nn.functional.leaky_relu(layer(gain=gain), slope)
        return y.clamp(-clamp, clamp) if clamp else y

    return {"Upfirdn2d": upfirdn2d, "ModulatedConv2d": modulated_conv2d}


def check_shapes(node: Upfirdn2dNode | ModulatedConv2dNode, operands: list[Any]) -> None:
    """Check the shapes of a node's operands, which are tensors in the order of `node.ranks`.

    Raises:
        BundleError: They are not those of the operator.
    """
    try:
        node.check_shapes({name: tuple(t.shape) for name, t in zip(node.ranks, operands, strict=True)})
    except ValueError as e:
        raise BundleError(f"the network has a node that is not defined: {e}") from None


def plain_operators() -> dict[str, Operator]:
    """The known operators of ONNX's own domain by name."""
    import torch

    onnx_types = {1: torch.float32, 2: torch.uint8, 10: torch.float16}

    def cast(a: dict[str, Any], x: list[Any]) -> Any:
        if a["to"] not in onnx_types:
            raise BundleError(f"the torch backend does not cast to ONNX's type {a['to']}")
        return x[0].to(onnx_types[a["to"]])

    def conv(a: dict[str, Any], x: list[Any]) -> Any:
        top, left, bottom, right = a["pads"]
        padded = torch.nn.functional.pad(x[0], (left, right, top, bottom)) if any(a["pads"]) else x[0]
        bias = x[2] if len(x) > 2 else None
        return torch.nn.functional.conv2d(padded, x[1], bias, a["strides"], groups=a["group"])

    def slice_(a: dict[str, Any], x: list[Any]) -> Any:
        data, starts, ends, axes = x[0], *(v.tolist() for v in x[1:4])
        for start, end, axis in zip(starts, ends, axes, strict=True):
            length = data.shape[axis]
            start, end = (max(0, min(n + length if n < 0 else n, length)) for n in (start, end))
            data = data.narrow(axis, start, max(0, end - start))
        return data

    def reshape(a: dict[str, Any], x: list[Any]) -> Any:
        return x[0].reshape([x[0].shape[i] if n == 0 else n for i, n in enumerate(x[1].tolist())])

    def gather(a: dict[str, Any], x: list[Any]) -> Any:
        axis = a["axis"]
        if x[1].ndim == 0:
            return x[0].select(axis, int(x[1]))
        indices = x[1].tolist()
        # An index tensor would have to be copied to the device first.
        return torch.stack([x[0].select(axis, i) for i in indices], axis)

    def unsqueeze(a: dict[str, Any], x: list[Any]) -> Any:
        data, axes = x[0], x[1].tolist()
        # Negative axes count from the end of the result.
        for axis in sorted(axis % (data.ndim + len(axes)) for axis in axes):
            data = data.unsqueeze(axis)
        return data

    return {
        "Conv": Operator(conv, (2, 3), {"pads": [0, 0, 0, 0], "strides": [1, 1], "group": 1}),
        "Add": Operator(lambda a, x: x[0] + x[1], (2,)),
        "Mul": Operator(lambda a, x: x[0] * x[1], (2,)),
        "Div": Operator(lambda a, x: x[0] / x[1], (2,)),
        "MatMul": Operator(lambda a, x: x[0] @ x[1], (2,)),
        "Sqrt": Operator(lambda a, x: x[0].sqrt()),
        "Reciprocal": Operator(lambda a, x: x[0].reciprocal()),
        "Floor": Operator(lambda a, x: x[0].floor()),
        "Identity": Operator(lambda a, x: x[0]),
        "Clip": Operator(lambda a, x: x[0].clamp(x[1], x[2]), (3,)),
        "Cast": Operator(cast, attributes={"to": int}),
        "Transpose": Operator(lambda a, x: x[0].permute(*a["perm"]), attributes={"perm": list}),
        "ReduceSum": Operator(lambda a, x: x[0].sum(x[1].tolist(), keepdim=bool(a["keepdims"])), (2,), {"keepdims": 1}),
        "Slice": Operator(slice_, (4,)),
        "Reshape": Operator(reshape, (2,)),
        "Gather": Operator(gather, (2,), {"axis": 0}),
        "Unsqueeze": Operator(unsqueeze, (2,)),
    }


def _check_attribute(what: str, value: Any, default: Any) -> None:
    """Refuse a value that has not the type of `default`, or of a list also its length. A type is no default."""
    kind = default if isinstance(default, type) else type(default)
    if value is kind:
        raise ValueError(f"the attribute {what} is missing")
    numbers = value if isinstance(value, list) else [value]
    if type(value) is not kind or any(type(number) is not int for number in numbers):
        raise ValueError(f"the attribute {what} has another type: {value!r:.60}")
    if isinstance(default, list) and len(numbers) != len(default):
        raise ValueError(f"the attribute {what} has {len(numbers)} values, not {len(default)}")
