"""The process that `test_tensorrt.py` runs: cases as JSON on stdin, results of TensorRT's bindings on stdout."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import tensorrt_bindings_stub

from stylert.plugins import tensorrt as plugins
from stylert.plugins.shapes import Resampling
from stylert.plugins.triton import node_launch as nodes


def plugin_of(trt: Any, case: dict[str, Any]) -> tuple[tensorrt_bindings_stub.Plugin, list[Any]]:
    """The plugin of a case's node, and the types of its inputs."""
    shapes = {name: tuple(shape) for name, shape in case["shapes"].items()}
    plugin = tensorrt_bindings_stub.Plugin(trt, case["op"], shapes, as_fields(case["attributes"]), case["dynamic"])
    kind = {"float16": trt.float16, "float32": trt.float32}[case["dtype"]]
    return plugin, [trt.int8 if case.get("int8") and name == "weight" else kind for name in shapes]


def formats(trt: Any, case: dict[str, Any]) -> dict[str, Any]:
    """The names of the layouts of all tensors, in every combination that the plugin offers."""
    plugin, kinds = plugin_of(trt, case)
    return {"formats": [[choice.format.name for choice in combination] for combination in plugin.combinations(kinds)[2]]}


def build(trt: Any, case: dict[str, Any]) -> dict[str, Any]:
    """The parts of a plugin that an engine keeps, and the launch of `node_launch.py` for the same shapes as ints."""
    shapes, attributes = {name: tuple(shape) for name, shape in case["shapes"].items()}, as_fields(case["attributes"])
    plugin, kinds = plugin_of(trt, case)
    kind, int8 = kinds[0], case.get("int8", False)
    result = plugin.build(kinds, case["tactic"], case["layout"])
    nhwc, itemsize = result["formats"][0].startswith("HWC"), 2 if kind == trt.float16 else 4
    if case["op"] == "Upfirdn2d":
        up, down, padding = (case["attributes"][name] for name in ("up", "down", "padding"))
        spec = Resampling.of(up, down, padding, bool(attributes["flip"]), attributes["gain"])
        warps = nodes.FIR_WARPS[case["tactic"]]
        launch = nodes.upfirdn2d_node(shapes["x"], shapes["f"], spec, nhwc=nhwc, itemsize=itemsize, num_warps=warps)
    else:
        operands = [shapes[name] for name in ("x", "weight", "style", "noise")]
        folds_fir = attributes["up"] == 2 and len(shapes["weight"]) == 4
        tile = nodes.conv_tiles(folds_fir, 2 if int8 else itemsize)[case["tactic"]]
        numbers = {name: value for name, value in attributes.items() if name != "group"}
        ohwi = result["formats"][1].startswith("HWC")
        launch = nodes.modulated_conv2d_node(*operands, **numbers, nhwc=nhwc, ohwi=ohwi, tile=tile, int8=int8)
    result["expected"] = {
        "programs": launch.programs,
        "sizes": list(launch.integers.values()),
        "threads": launch.num_warps * 32,
        "arguments": [name for name in launch.kernel.arg_names if name not in launch.constants],
        "kernel": launch.kernel.fn.__name__,
    }
    return result


def execute(trt: Any, case: dict[str, Any]) -> dict[str, Any]:
    """Run the just-in-time side in Triton's interpreter, on CPU tensors. The output is a list."""
    import torch

    plugins.as_torch = lambda tensor: tensor.memory
    plugins._on_stream = lambda stream: contextlib.nullcontext()
    registered = sys.modules["tensorrt_bindings.plugin._lib"].QDP_REGISTRY[f"stylert::{case['op']}"]
    layouts = [torch.channels_last if name == "HWC" else torch.contiguous_format for name in case["formats"]]

    def tensor(values: Any, format: str, layout: Any) -> Any:
        memory = torch.tensor(values, dtype=torch.float32).contiguous(memory_format=layout)
        named = trt.TensorFormat.HWC if format == "HWC" else trt.TensorFormat.LINEAR
        return SimpleNamespace(memory=memory, shape=tuple(memory.shape), dtype=trt.float32, format=named)

    inputs = [tensor(v, f, layout) for v, f, layout in zip(case["inputs"], case["formats"], layouts, strict=False)]
    y = tensor(np.full(case["output"], np.nan), case["formats"][-1], layouts[-1])
    attributes = as_fields(case["attributes"])
    arguments = [attributes[name] for name in registered.impl_attr_names]
    registered.impl_func(*inputs, *arguments, (y,), 0, case["tactic"])
    return {"y": y.memory.tolist()}


def as_fields(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: np.array(value, np.int64) if isinstance(value, list) else value for name, value in attributes.items()}


def main() -> None:
    request = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as folder:
        trt = tensorrt_bindings_stub.load(Path(folder))
        names = plugins.register(request["architecture"], lazy=True)
        assert plugins.register(request["architecture"], lazy=True) == names
        registry = sys.modules["tensorrt_bindings.plugin._lib"].QDP_REGISTRY
        described = {
            name: {"inputs": d.input_tensor_names, "attributes": {key: str(kind) for key, kind in d.input_attrs.items()}}
            for name, d in registry.items()
        }
        results = []
        for case in request["cases"]:
            plugins.register(case.get("architecture", request["architecture"]), lazy=True)
            try:
                results.append({"build": build, "execute": execute, "formats": formats}[case["do"]](trt, case))
            except ValueError as error:
                results.append({"error": str(error)})
    json.dump({"version": trt.__version__, "plugins": described, "results": results}, sys.stdout)


main()
