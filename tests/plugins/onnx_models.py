"""Models of one operator node, and three runtimes for them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner
import onnx.reference
import onnxruntime

from stylert.plugins.onnx_functions import DOMAIN, function_protos, opset_imports

Arrays = dict[str, npt.NDArray[Any]]


def one_node_model(
    op: str,
    inputs: Arrays,
    static: bool = True,
    dtype: npt.DTypeLike = np.float32,
    constants: Collection[str] = (),
    **attributes: Any,
) -> onnx.ModelProto:
    """A valid model of one node, with the function bodies.

    Args:
        op: Name of the operator.
        inputs: Input name to an array with the shape of the input.
        static: Whether the model states the sizes of its inputs.
        dtype: Dtype of the output, and of the inputs.
        constants: Names of inputs that the model holds as initializers, as an exported file does.
        attributes: Attributes of the node.
    """
    tensor_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    def value(name: str, shape: Any) -> onnx.ValueInfoProto:
        return onnx.helper.make_tensor_value_info(name, tensor_type, shape)

    shapes = {name: a.shape if static else [f"{name}_{i}" for i in range(a.ndim)] for name, a in inputs.items()}
    node = onnx.helper.make_node(op, list(inputs), ["y"], name="y", domain=DOMAIN, **attributes)
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [value(name, shape) for name, shape in shapes.items() if name not in constants],
        [value("y", [None] * 4)],
        [onnx.numpy_helper.from_array(inputs[name], name) for name in constants],
    )
    model = onnx.helper.make_model(graph, opset_imports=opset_imports(), functions=function_protos(), ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def session_of(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def by_onnxruntime(model: onnx.ModelProto, inputs: Arrays) -> npt.NDArray[Any]:
    return np.asarray(session_of(model).run(None, _of_graph(model, inputs))[0])


def by_evaluator(model: onnx.ModelProto, inputs: Arrays) -> npt.NDArray[Any]:
    """ONNX's evaluator on the inlined graph. Inside a function it loses attributes that are passed to a subgraph."""
    evaluator = onnx.reference.ReferenceEvaluator(onnx.inliner.inline_local_functions(model))
    return np.asarray(evaluator.run(None, _of_graph(model, inputs))[0])


def by_openvino(model: onnx.ModelProto, inputs: Arrays, folder: Path) -> npt.NDArray[Any]:
    """OpenVINO in float32 on the lowered file, as the backend runs it."""
    import openvino

    from stylert.runtime.lowering import lower

    onnx.save(model, folder / "model.onnx")
    lower(folder / "model.onnx", folder / "lowered.onnx")
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(str(folder / "lowered.onnx"), "CPU", options)
    return np.asarray(compiled(_of_graph(model, inputs))[0])


def _of_graph(model: onnx.ModelProto, inputs: Arrays) -> Arrays:
    return {value.name: inputs[value.name] for value in model.graph.input}
