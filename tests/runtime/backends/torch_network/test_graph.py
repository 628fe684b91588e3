"""The torch backend computes plain ONNX nodes as ONNX's evaluator does, and refuses the others before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest

from stylert.core.errors import BundleError
from stylert.plugins.onnx_functions import OPSET
from stylert.runtime.backends.torch_network.graph import TorchGraph

torch = pytest.importorskip("torch")

#: Constants of the models below
CONSTANTS = {
    "kernel": np.arange(54, dtype=np.float32).reshape(3, 2, 3, 3) / 50,
    "zero": np.array([0], np.int64),
    "two": np.array([2], np.int64),
    "steps": np.array([2], np.int64),
    "last_axis": np.array([-1], np.int64),
    "last_axes": np.array([-1, -2], np.int64),
    "low_ends": np.array([-100, 1], np.int64),
    "far_ends": np.array([2**62, -1], np.int64),
    "shape": np.array([0, -1, 3], np.int64),
    "indices": np.array([-1, 0, 4], np.int64),
    "low": np.float32(-1),
    "high": np.float32(1),
}


def model_of(op: str, inputs: str, domain: str = "", **attributes: Any) -> onnx.ModelProto:
    """A model of one node, whose inputs are `x` and constants."""
    float_type = onnx.TensorProto.FLOAT
    node = onnx.helper.make_node(op, inputs.split(" "), ["y"], domain=domain, **attributes)
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [onnx.helper.make_tensor_value_info("x", float_type, ["N", 2, 5, 6])],
        [onnx.helper.make_tensor_value_info("y", float_type, ["N", None, None, None])],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in CONSTANTS.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)])


def graph_of(model: onnx.ModelProto, folder: Path) -> TorchGraph:
    onnx.save(model, folder / "model.onnx")
    return TorchGraph(folder / "model.onnx", "cpu")


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "message"),
    [
        ("Conv", "x kernel", {"dilations": [2, 2]}, "dilations of Conv"),
        ("Conv", "x kernel", {"auto_pad": "SAME_UPPER"}, "auto_pad of Conv"),
        ("Conv", "x kernel", {"pads": [1, 1]}, "pads of Conv has 2 values, not 4"),
        ("Conv", "x kernel", {"pads": [1.0, 1.0, 1.0, 1.0]}, "pads of Conv has another type"),
        ("Conv", "x kernel", {"strides": "12"}, "strides of Conv has another type"),
        ("Conv", "x", {}, "Conv has 1 inputs, not 2 or 3"),
        ("Slice", "x zero two zero steps", {}, "Slice has 5 inputs, not 4"),
        ("Clip", "x  high", {}, "Clip has 3 inputs"),
        ("Clip", "x low", {}, "Clip has 2 inputs, not 3"),
        ("ReduceSum", "x two", {"noop_with_empty_axes": 1}, "noop_with_empty_axes of ReduceSum"),
        ("Reshape", "x two", {"allowzero": 1}, "allowzero of Reshape"),
        ("Transpose", "x", {}, "perm of Transpose is missing"),
        ("Cast", "x", {"to": "float"}, "to of Cast has another type"),
        ("Add", "x nowhere", {}, "nowhere"),
        ("Add", "x x", {"domain": "other"}, "does not know Add"),
        ("Upfirdn2d", "x kernel", {}, "does not know Upfirdn2d"),
    ],
    ids=str,
)
def test_a_plain_node_with_unknown_attributes_or_inputs_is_refused(
    op: str, inputs: str, attributes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BundleError) as error:
        graph_of(model_of(op, inputs, **attributes), tmp_path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"),
    [
        ("Conv", "x kernel", {"pads": [0, 1, 2, 3], "strides": [1, 2]}),
        ("Slice", "x low_ends far_ends last_axes", {}),
        ("Slice", "x two zero last_axis", {}),
        ("Unsqueeze", "x last_axes", {}),
        ("Unsqueeze", "x two", {}),
        ("Reshape", "x shape", {}),
        ("Gather", "x indices", {"axis": 3}),
        ("Transpose", "x", {"perm": [0, 3, 1, 2]}),
        ("ReduceSum", "x last_axes", {"keepdims": 0}),
        ("ReduceSum", "x two", {}),
        ("Clip", "x low high", {}),
    ],
    ids=str,
)
def test_a_plain_node_equals_the_evaluator(
    op: str, inputs: str, attributes: dict[str, Any], tmp_path: Path, rng: np.random.Generator
) -> None:
    x = rng.standard_normal((2, 2, 5, 6), np.float32)
    model = model_of(op, inputs, **attributes)
    (expected,) = onnx.reference.ReferenceEvaluator(model).run(None, {"x": x})
    y = graph_of(model, tmp_path)({"x": torch.from_numpy(x)}).numpy()
    assert y.shape == np.shape(expected)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
