"""A bundle's synthesis network as PyTorch calls: our operators run as our own kernels, everything else as what torch has.

It reads the canonical ONNX file, so it needs neither the checkpoint nor the training code. Only the operators that the
exporter writes into the networks of floating point are known; any other is an error before anything runs.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stylert.core.errors import BundleError
from stylert.runtime.session import Tensor

if TYPE_CHECKING:
    import torch

#: `(attributes, operands) -> result`
Operator = Callable[[dict[str, Any], list[Any]], Any]


class TorchGraph:
    """The network of an ONNX file on a device. Calling it with named tensors gives its one output.

    Raises BundleError for a file that cannot be read, or that holds an operator which is not known here.
    """

    def __init__(self, file: Path, device: str) -> None:
        import onnx
        import torch
        from onnx.numpy_helper import to_array

        try:
            graph = onnx.load(file).graph
        except Exception as e:  # protobuf's exceptions share no public base class
            raise BundleError(f"{file} is not a network that can be read: {' '.join(str(e).split())}") from None
        known = _operators()
        unknown = sorted({node.op_type for node in graph.node} - set(known))
        if unknown:
            raise BundleError(f"{file}: the torch backend does not know {', '.join(unknown)}")
        # Whole numbers are shapes, axes and indices: they stay on the host, where reading them waits for nothing.
        self._constants = {
            value.name: torch.from_numpy(to_array(value).copy()).to(
                "cpu" if value.data_type == onnx.TensorProto.INT64 else device
            )
            for value in graph.initializer
        }
        self._steps = [
            (
                known[node.op_type],
                {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute},
                list(node.input),
                node.output[0],
            )
            for node in graph.node
        ]
        #: What each step computes, in their order: the name of its result
        self.results = [output for _, _, _, output in self._steps]
        self.image = _tensor(graph.output[0])
        self._last_use = {name: i for i, step in enumerate(self._steps) for name in step[2]}

    def __call__(
        self, inputs: dict[str, torch.Tensor], around: Callable[[int], AbstractContextManager[Any]] | None = None
    ) -> torch.Tensor:
        """The images. `around` gives for each step's number what it is to run within: a profiler's mark."""
        values = dict(inputs)
        for i, (operator, attributes, names, output) in enumerate(self._steps):
            operands = [values[n] if n in values else self._constants[n] for n in names]
            with nullcontext() if around is None else around(i):
                values[output] = operator(attributes, operands)
            for name in names:  # activations are let go as soon as nobody reads them any more
                if self._last_use[name] == i:
                    values.pop(name, None)
        return values[self.image.name]


def _tensor(described: Any) -> Tensor:
    import onnx

    kind = described.type.tensor_type
    shape = tuple(d.dim_value for d in kind.shape.dim)[1:]
    return Tensor(described.name, False, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type), shape)


def _operators() -> dict[str, Operator]:
    import torch

    from stylert.plugins import ops

    types = {1: torch.float32, 2: torch.uint8, 10: torch.float16}

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
        return torch.stack([x[0].select(axis, i) for i in indices], axis)  # no index tensor: nothing to copy to the device

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
        "Cast": lambda a, x: x[0].to(types[a["to"]]),
        "Transpose": lambda a, x: x[0].permute(*a["perm"]),
        "ReduceSum": lambda a, x: x[0].sum(x[1].tolist(), keepdim=bool(a.get("keepdims", 1))),
        "Slice": slice_,
        "Reshape": reshape,
        "Gather": gather,
        "Unsqueeze": unsqueeze,
    }
