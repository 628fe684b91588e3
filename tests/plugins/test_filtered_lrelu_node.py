"""The ONNX node FilteredLrelu: its body equals SciPy in every runtime, and wrong nodes are refused in one line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings

from stylert.export.graph import GraphBuilder
from stylert.plugins.filtered_lrelu import FilteredLrelu
from stylert.plugins.filtered_lrelu_node import ATTRIBUTES, FilteredLreluNode
from stylert.plugins.onnx_functions import DOMAIN, FILTERED_LRELU, check_nodes, node_attributes
from stylert.plugins.shapes import Epilogue
from tests.plugins.filtered_lrelu_cases import Call, by_scipy, calls
from tests.plugins.onnx_models import by_evaluator, by_onnxruntime, by_openvino, one_node_model, session_of

#: Factors, sizes, paddings and taps that differ on the two axes, and the layer of a network.
CASES = {
    "up_y_down_x": Call((5, 7), (2, 1), (1, 2), (4, 1, 2, 3), (3, 4), (4, 2), 0.2, 1.5, 0.0, 2, 1),
    "up_x_down_y": Call((6, 4), (1, 3), (2, 1), (-1, 5, 4, -2), (2, 5), (3, 3), 0.5, 0.7, 0.9, 3, 2),
    "crop": Call((9, 9), (2, 2), (2, 2), (-2, -3, -1, -2), 4, 4, 0.2, math.sqrt(2), 2.0, 1, 3),
    "stylegan3": Call((8, 8), (2, 2), (2, 2), (9, 8, 9, 8), 12, 12, 0.2, math.sqrt(2), 256.0, 4, 4),
    "linear": Call((3, 5), (1, 1), (1, 1), (0, 0, 0, 0), 1, 1, 1.0, 1.0, 0.0, 2, 5),
}


def assert_right(y: np.ndarray, call: Call) -> None:
    expected = by_scipy(call, call.node_inputs)
    assert y.shape == expected.shape
    assert np.abs(y - expected).max() <= 1e-4 * max(np.abs(expected).max(), 0.1)  # terms of both signs cancel


@settings(max_examples=60)
@given(calls)
def test_the_body_equals_scipy(call: Call) -> None:
    model = one_node_model("FilteredLrelu", call.node_inputs, constants=("bias", "fu", "fd"), **call.attributes)
    for y in (by_onnxruntime(model, call.node_inputs), by_evaluator(model, call.node_inputs)):
        assert y.dtype == np.float32
        assert_right(y, call)


@settings(max_examples=30)
@given(calls)
def test_the_body_takes_dynamic_shapes_and_float16(call: Call) -> None:
    inputs = {name: a.astype(np.float16) for name, a in call.node_inputs.items()}
    model = one_node_model("FilteredLrelu", inputs, static=False, dtype=np.float16, **call.attributes)
    y, expected = by_onnxruntime(model, inputs), by_scipy(call, inputs)
    assert y.dtype == np.float16
    np.testing.assert_allclose(y, expected, rtol=2e-2, atol=2e-2 * max(1, np.abs(expected).max()))


@settings(max_examples=30)
@given(calls)
def test_shape_inference_gives_the_output_shape(call: Call) -> None:
    inputs = call.node_inputs
    model = one_node_model("FilteredLrelu", inputs, **call.attributes)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    spec = FilteredLrelu.of(call.up, call.down, call.padding, call.slope, call.gain, call.clamp or None)
    size = spec.output_size(call.size, inputs["fu"].shape, inputs["fd"].shape)
    assert session_of(model).get_outputs()[0].shape == [2, call.channels, *size]


@pytest.mark.parametrize("call", CASES.values(), ids=CASES)
@pytest.mark.parametrize("form", ["evaluator", "onnxruntime", "openvino"])
def test_every_runtime_equals_scipy(call: Call, form: str, tmp_path: Path) -> None:
    if form == "openvino":
        pytest.importorskip("openvino")
        pytest.importorskip("onnxscript")
    model = one_node_model("FilteredLrelu", call.node_inputs, constants=("bias", "fu", "fd"), **call.attributes)
    if form == "openvino":
        y = by_openvino(model, call.node_inputs, tmp_path)
    else:
        y = (by_evaluator if form == "evaluator" else by_onnxruntime)(model, call.node_inputs)
    assert_right(y, call)


# --- nodes -----------------------------------------------------------------------------------------------------------

NODE: dict[str, Any] = {
    "up": [1, 2], "down": [3, 1], "padding": [1, 2, 0, -1], "alpha": 0.2, "gain": 1.5, "clamp": 0.0, "group": 3,
}  # fmt: skip
SHAPES: dict[str, tuple[int, ...]] = {"x": (2, 3, 5, 4), "bias": (3,), "fu": (3, 2), "fd": (2, 4)}


def unchecked_model(attributes: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    """A model of one node. It may have attributes and shapes that ONNX's own checker refuses."""
    model = one_node_model("FilteredLrelu", {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}, **NODE)
    del model.graph.node[0].attribute[:]
    model.graph.node[0].attribute.extend(onnx.helper.make_attribute(name, value) for name, value in attributes.items())
    for value in model.graph.input:
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, shapes[value.name]))
    return model


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"up": [2]}, "up must be 2 whole numbers"),
        ({"up": [1, 0]}, "at least 1"),
        ({"down": [1.0, 2.0]}, "down must be 2 whole numbers"),
        ({"padding": [1, 2]}, "padding must be 4 whole numbers"),
        ({"padding": [0, 0, 0, 2**40]}, "padding is out of range"),
        ({"alpha": math.nan}, "alpha is out of range"),
        ({"alpha": 1}, "alpha must be a floating-point number"),
        ({"gain": 0.0}, "gain must be positive"),
        ({"clamp": -1.0}, "clamp must be finite and not negative"),
        ({"clamp": None}, "lacks clamp"),
        ({"flip": 1}, "does not know flip"),
        ({"group": 0}, "group must be at least 1"),
        ({"group": 2}, "group is 2, not 3, the channels of x"),
    ],
)
def test_a_wrong_attribute_is_refused(changes: dict[str, Any], message: str) -> None:
    attributes = {name: value for name, value in (NODE | changes).items() if value is not None}
    with pytest.raises(ValueError, match="node 'y': FilteredLrelu: ") as refusal:
        check_nodes(unchecked_model(attributes, SHAPES))
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": (3, 5, 4)}, "x 3, not x 4"),
        ({"fu": (3,)}, "fu 1, not fu 2"),
        ({"x": (2, 4, 5, 4)}, "group is 3, not 4, the channels of x"),
        ({"bias": (1,)}, "group is 3, not 1, the channels of bias"),
        ({"fu": (8, 2)}, "axis y"),
        ({"fd": (2, 8)}, "axis x"),
        ({"fd": (0, 1)}, "axis y"),
    ],
)
def test_a_wrong_shape_is_refused(changes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match="node 'y': FilteredLrelu: ") as refusal:
        check_nodes(unchecked_model(NODE, SHAPES | changes))
    assert message in str(refusal.value)


def test_a_builder_refuses_a_wrong_node() -> None:
    builder = GraphBuilder("g")
    inputs = [builder.input(name, shape) for name, shape in SHAPES.items()]
    builder.node("FilteredLrelu", inputs, "y", DOMAIN, **(NODE | {"gain": -1.0}))
    builder.output("y", [None] * 4)
    with pytest.raises(ValueError, match="node 'y': FilteredLrelu: gain must be positive"):
        builder.model()


def test_attributes_are_read_in_their_order_and_unknown_sizes_are_not_checked() -> None:
    node = onnx.helper.make_node(
        "FilteredLrelu", ["x", "bias", "fu", "fd"], ["y"], domain=DOMAIN, plugin_namespace=DOMAIN, **NODE
    )
    read = FilteredLreluNode.of(node_attributes(node))
    spec = FilteredLrelu.of((1, 2), (3, 1), (1, 2, 0, -1), 1.0, 1.0)
    assert (read.spec.up, read.spec.down, read.group) == (spec.up, spec.down, 3)
    assert read.spec.epilogue == Epilogue(float(np.float32(0.2)), 1.5, 0.0)
    read.check_shapes({name: [None] * len(shape) for name, shape in SHAPES.items()})
    proto = onnx.parser.parse_function(FILTERED_LRELU)
    assert list(proto.input) == list(FilteredLreluNode.ranks)
    assert set(proto.attribute) == set(ATTRIBUTES)
