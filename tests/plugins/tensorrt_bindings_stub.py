"""TensorRT's own Python bindings, from the wheel `tensorrt-cu13-bindings`, over empty C functions as libraries.

The bindings do real work in Python and in C++: checks of a plugin's functions, shape expressions, layout and type
combinations, launch parameters. The libraries are absent, so there is no registry, no builder and no engine. The
libraries own the builder of shape expressions; exact integers replace it here.
"""

from __future__ import annotations

import ctypes
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

SYMBOLS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry", "getPluginRegistry",
    "getNvOnnxParserVersion", "initLibNvInferPlugins",
)  # fmt: skip


def load(folder: Path) -> Any:
    """Compile the empty libraries into `folder`, and make `tensorrt` importable in this process."""
    source = folder / "stub.c"
    source.write_text("\n".join(f"void *{name}(void) {{ return 0; }}" for name in SYMBOLS))
    for library in ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser"):
        path = folder / f"{library}.so.11"
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", path, f"-Wl,-soname,{path.name}", source], check=True)
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    trt = sys.modules["tensorrt"] = importlib.import_module("tensorrt_bindings")
    sys.modules["tensorrt.plugin"] = importlib.import_module("tensorrt_bindings.plugin")
    return trt


class Number:
    """A dimension expression of TensorRT. `constant` is False for a size that only the running engine knows."""

    def __init__(self, value: int, constant: bool) -> None:
        self.value, self.constant = value, constant

    def is_constant(self) -> bool:
        return self.constant

    def get_constant_value(self) -> int:
        assert self.constant, "a size was read that is not known when the engine is built"
        return self.value


class Builder:
    """The builder of dimension expressions, computing with numbers."""

    def __init__(self, trt: Any) -> None:
        op = trt.DimensionOperation
        self.operations = {
            op.SUM: lambda a, b: a + b, op.SUB: lambda a, b: a - b, op.PROD: lambda a, b: a * b,
            op.FLOOR_DIV: lambda a, b: a // b, op.CEIL_DIV: lambda a, b: -(-a // b), op.EQUAL: lambda a, b: int(a == b),
            op.LESS: lambda a, b: int(a < b), op.MAX: max, op.MIN: min,
        }  # fmt: skip

    def constant(self, value: int) -> Number:
        return Number(value, True)

    def operation(self, op: Any, a: Number, b: Number) -> Number:
        return Number(self.operations[op](a.value, b.value), a.constant and b.constant)


class Plugin:
    """TensorRT's own class of a plugin with ahead-of-time code, called as TensorRT's builder calls it.

    `dynamic` lists inputs, separated by spaces. Only the running engine knows their first dimension.
    """

    def __init__(
        self, trt: Any, name: str, shapes: dict[str, tuple[int, ...]], attributes: dict[str, Any], dynamic: str
    ) -> None:
        from tensorrt_bindings.plugin import _tensor
        from tensorrt_bindings.plugin._lib import QDP_REGISTRY
        from tensorrt_bindings.plugin._plugin_class import _TemplateAOTPlugin

        trt.IDimensionExpr, trt.DimsExprs, _tensor.SymExprImpl = Number, Dims, Argument
        self.trt, self.builder, self.shapes = trt, Builder(trt), shapes
        self.definition = QDP_REGISTRY[f"stylert::{name}"]
        assert list(shapes) == self.definition.input_tensor_names
        self.exprs = [
            [Number(size, not (axis == 0 and key in dynamic.split())) for axis, size in enumerate(shape)]
            for key, shape in shapes.items()
        ]
        d = self.definition
        self.plugin = _TemplateAOTPlugin(name, "stylert", d.num_outputs)
        self.plugin.init(
            d.register_func, attributes, d.aot_impl_attr_names, d.aot_impl_func, d.autotune_attr_names, d.autotune_func
        )
        self.attributes = attributes

    def combinations(self, types: list[Any]) -> tuple[list[Any], tuple[int, ...], list[list[Any]]]:
        """Descriptions of all tensors, the shape of the output, and the combinations of types and layouts."""
        trt, plugin = self.trt, self.plugin
        (out_type,) = plugin.get_output_data_types(types, [len(shape) for shape in self.shapes.values()])
        (out_exprs,) = plugin.get_output_shapes(self.exprs, [], self.builder)
        out_shape = tuple(e.value for e in out_exprs)
        in_out = []
        for shape, kind in zip([*self.shapes.values(), out_shape], [*types, out_type], strict=True):
            tensor = trt.DynamicPluginTensorDesc()
            tensor.desc.dims, tensor.desc.type, tensor.desc.format = trt.Dims(shape), kind, trt.TensorFormat.LINEAR
            in_out.append(tensor)
        flat = plugin.get_supported_format_combinations(in_out, len(self.shapes))
        return in_out, out_shape, [flat[first : first + len(in_out)] for first in range(0, len(flat), len(in_out))]

    def build(self, types: list[Any], tactic: int | None = None, layout: int = 0) -> dict[str, Any]:
        """The parts of the plugin that an engine keeps, for given input types, layout and tactic."""
        plugin = self.plugin
        in_out, out_shape, combinations = self.combinations(types)
        for tensor, choice in zip(in_out, combinations[layout], strict=True):
            assert tensor.desc.type == choice.type
            tensor.desc.format = choice.format
        plugin.configure_plugin(in_out[:-1], in_out[-1:])
        tactics = plugin.get_valid_tactics()
        plugin.set_tactic(tactic or min(tactics))
        launch, sizes = LaunchParams(), Setter()
        plugin.get_launch_params(None, in_out, len(self.shapes), launch, sizes, self.builder)
        name, code = plugin.get_kernel([t.desc for t in in_out[:-1]], [in_out[-1].desc])
        return {
            "shape": out_shape,
            "tactics": sorted(tactics),
            "layouts": len(combinations),
            "formats": [t.desc.format.name for t in in_out],
            "kernel": name,
            "ptx": code.decode(),
            "launch": {key: value.expr.value for key, value in vars(launch).items()},
            "sizes": [sizes[i].expr.value for i in range(sizes.nbSymExprs)],
        }


class Dims(list):
    """TensorRT's list of dimension expressions."""

    def __init__(self, length: int) -> None:
        super().__init__([None] * length)


class Argument:
    """A kernel argument or launch parameter, as the bindings give it to TensorRT."""

    def __init__(self, size: Any) -> None:
        self.expr = size._expr


class LaunchParams:
    """The bindings write grid, block and shared memory here."""


class Setter(dict):
    """The bindings write the arguments between inputs and output here."""

    nbSymExprs = 0
