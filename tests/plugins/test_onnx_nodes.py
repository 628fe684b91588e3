"""A node that the operators do not define is refused in one line, wherever nodes are read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from stylert.core.errors import BundleError
from stylert.export.graph import GraphBuilder
from stylert.plugins.onnx_functions import DOMAIN, check_nodes, node_attributes
from stylert.plugins.onnx_nodes import NODES, ModulatedConv2dNode, Upfirdn2dNode
from stylert.plugins.shapes import Epilogue, Resampling
from stylert.runtime.backends.torch_network.graph import TorchGraph
from stylert.runtime.lowering import lower
from tests.plugins.onnx_models import one_node_model

FIR = {"up": [1, 2], "down": [3, 1], "padding": [1, 2, 0, -1], "flip": 0, "gain": 2.5, "group": 3}
FIR_SHAPES = {"x": (2, 3, 5, 4), "f": (3, 2)}
LAYER = {"up": 2, "alpha": 0.2, "gain": 1.5, "clamp": 0.0, "group": 5}
LAYER_SHAPES = {
    "x": (1, 3, 4, 6), "weight": (5, 3, 3, 3), "style": (2, 3), "demod": (2, 5), "noise": (1, 1, 8, 1), "bias": (5,), "f": (4, 4),
}  # fmt: skip
ATTRIBUTES = {"Upfirdn2d": FIR, "ModulatedConv2d": LAYER}
SHAPES = {"Upfirdn2d": FIR_SHAPES, "ModulatedConv2d": LAYER_SHAPES}

#: Operator, change of the attributes (None removes one), and a part of the message.
WRONG_ATTRIBUTES: list[tuple[str, dict[str, Any], str]] = [
    ("Upfirdn2d", {"up": [2]}, "up must be 2 whole numbers"),
    ("Upfirdn2d", {"up": [1, 2, 3]}, "up must be 2 whole numbers"),
    ("Upfirdn2d", {"up": 2}, "up must be 2 whole numbers"),
    ("Upfirdn2d", {"up": [1.0, 2.0]}, "up must be 2 whole numbers"),
    ("Upfirdn2d", {"up": "12"}, "up must be 2 whole numbers"),
    ("Upfirdn2d", {"up": [1, 0]}, "at least 1"),
    ("Upfirdn2d", {"down": [-1, 1]}, "at least 1"),
    ("Upfirdn2d", {"down": ["1", "2"]}, "down must be 2 whole numbers"),
    ("Upfirdn2d", {"padding": [1, 2]}, "padding must be 4 whole numbers"),
    ("Upfirdn2d", {"padding": [1, 2, 3, 4, 5]}, "padding must be 4 whole numbers"),
    ("Upfirdn2d", {"padding": [0, 0, 0, 2**40]}, "padding is out of range"),
    ("Upfirdn2d", {"flip": 2}, "flip must be"),
    ("Upfirdn2d", {"flip": -1}, "flip must be"),
    ("Upfirdn2d", {"flip": 1.0}, "flip must be a whole number"),
    ("Upfirdn2d", {"gain": 2}, "gain must be a floating-point number"),
    ("Upfirdn2d", {"gain": [2.0]}, "gain must be a floating-point number"),
    ("Upfirdn2d", {"gain": math.nan}, "gain is out of range"),
    ("Upfirdn2d", {"gain": math.inf}, "gain is out of range"),
    ("Upfirdn2d", {"gain": None}, "lacks gain"),
    ("Upfirdn2d", {"group": None, "up": None}, "lacks group, up"),
    ("Upfirdn2d", {"pads": [0, 0, 0, 0]}, "does not know pads"),
    ("Upfirdn2d", {"group": 0}, "group must be at least 1"),
    ("Upfirdn2d", {"group": 1}, "group is 1, not 3"),
    ("ModulatedConv2d", {"up": 3}, "up must be 1 or 2"),
    ("ModulatedConv2d", {"up": 0}, "up must be 1 or 2"),
    ("ModulatedConv2d", {"up": [2, 2]}, "up must be a whole number"),
    ("ModulatedConv2d", {"up": 2.0}, "up must be a whole number"),
    ("ModulatedConv2d", {"alpha": "0.2"}, "alpha must be a floating-point number"),
    ("ModulatedConv2d", {"alpha": math.nan}, "alpha is out of range"),
    ("ModulatedConv2d", {"gain": 0.0}, "gain must be positive"),
    ("ModulatedConv2d", {"gain": -1.0}, "gain must be positive"),
    ("ModulatedConv2d", {"clamp": -1.0}, "clamp must be finite and not negative"),
    ("ModulatedConv2d", {"clamp": math.inf}, "clamp is out of range"),
    ("ModulatedConv2d", {"clamp": None}, "lacks clamp"),
    ("ModulatedConv2d", {"activation": "lrelu"}, "does not know activation"),
    ("ModulatedConv2d", {"group": 4}, "group is 4, not 5"),
]

#: Operator, change of the shapes, and a part of the message.
WRONG_SHAPES: list[tuple[str, dict[str, tuple[int, ...]], str]] = [
    ("Upfirdn2d", {"x": (3, 5, 4)}, "x 3, not x 4"),
    ("Upfirdn2d", {"f": (3,)}, "f 1, not f 2"),
    ("Upfirdn2d", {"x": (2, 4, 5, 4)}, "group is 3, not 4"),
    ("Upfirdn2d", {"f": (9, 2)}, "axis y"),
    ("Upfirdn2d", {"f": (2, 9)}, "axis x"),
    ("ModulatedConv2d", {"weight": (5, 3, 5, 5)}, "3x3"),
    ("ModulatedConv2d", {"weight": (5, 3, 3, 1)}, "3x1"),
    ("ModulatedConv2d", {"weight": (4, 3, 3, 3)}, "group is 5, not 4"),
    ("ModulatedConv2d", {"weight": (5, 2, 3, 3)}, "x is"),
    ("ModulatedConv2d", {"x": (3, 3, 4, 6)}, "x is"),
    ("ModulatedConv2d", {"style": (2, 4)}, "style is"),
    ("ModulatedConv2d", {"demod": (1, 5)}, "demod is"),
    ("ModulatedConv2d", {"demod": (5,)}, "demod 1, not demod 2"),
    ("ModulatedConv2d", {"noise": (1, 1, 12, 1)}, "noise is"),
    ("ModulatedConv2d", {"noise": (1, 5, 8, 12)}, "noise is"),
    ("ModulatedConv2d", {"bias": (1,)}, "bias is"),
    ("ModulatedConv2d", {"f": (3, 4)}, "f is"),
]


def attributes_of(op: str, changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in (ATTRIBUTES[op] | changes).items() if value is not None}


def unchecked_model(op: str, attributes: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    """A model of one node. It may have attributes and shapes that ONNX's own checker refuses."""
    arrays = {name: np.zeros(shape, np.float32) for name, shape in SHAPES[op].items()}
    model = one_node_model(op, arrays, **ATTRIBUTES[op])
    del model.graph.node[0].attribute[:]
    model.graph.node[0].attribute.extend(onnx.helper.make_attribute(name, value) for name, value in attributes.items())
    for value in model.graph.input:
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, shapes[value.name]))
    return model


def assert_refused(model: onnx.ModelProto, message: str, folder: Path) -> None:
    """`check_nodes` and the torch backend refuse the model with this message."""
    with pytest.raises(ValueError, match="node 'y': ") as refusal:
        check_nodes(model)
    file = folder / "model.onnx"
    onnx.save(model, file)
    with pytest.raises(BundleError, match="node 'y': ") as error:
        TorchGraph(file, "cpu")
    for text in (str(refusal.value), str(error.value)):
        assert message in text
        assert "\n" not in text
        assert len(text) < 300


@pytest.mark.parametrize(("op", "changes", "message"), WRONG_ATTRIBUTES, ids=str)
def test_a_wrong_attribute_is_refused(op: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert_refused(unchecked_model(op, attributes_of(op, changes), SHAPES[op]), message, tmp_path)


@pytest.mark.parametrize(("op", "changes", "message"), WRONG_SHAPES, ids=str)
def test_a_wrong_shape_is_refused(op: str, changes: dict[str, tuple[int, ...]], message: str, tmp_path: Path) -> None:
    assert_refused(unchecked_model(op, ATTRIBUTES[op], SHAPES[op] | changes), message, tmp_path)


@pytest.mark.parametrize("op", NODES)
def test_an_unknown_operator_or_version_or_a_missing_input_is_refused(op: str, tmp_path: Path) -> None:
    good = unchecked_model(op, ATTRIBUTES[op], SHAPES[op])
    check_nodes(good)

    missing, empty, twice = (onnx.ModelProto.FromString(good.SerializeToString()) for _ in range(3))
    missing.graph.node[0].input.pop()
    empty.graph.node[0].input[1] = ""
    twice.graph.node[0].attribute.append(twice.graph.node[0].attribute[0])
    assert_refused(missing, "none may be left out", tmp_path)
    assert_refused(empty, "none may be left out", tmp_path)
    assert_refused(twice, "occurs twice", tmp_path)

    later = onnx.ModelProto.FromString(good.SerializeToString())
    next(opset for opset in later.opset_import if opset.domain == DOMAIN).version = 2
    with pytest.raises(ValueError, match="must have version 1, not 2"):
        check_nodes(later)
    good.graph.node[0].op_type = "Downfirdn2d"
    with pytest.raises(ValueError, match="has no operator Downfirdn2d"):
        check_nodes(good)


def test_export_and_lowering_refuse_a_wrong_node_too(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    builder = GraphBuilder("g")
    inputs = [builder.input(name, shape) for name, shape in FIR_SHAPES.items()]
    builder.node("Upfirdn2d", inputs, "y", DOMAIN, **(FIR | {"padding": [1, 2, 3, 4, 5]}))
    builder.output("y", [None] * 4)
    with pytest.raises(ValueError, match="node 'y': Upfirdn2d: padding must be 4 whole numbers"):
        builder.model()
    onnx.save(
        unchecked_model("ModulatedConv2d", attributes_of("ModulatedConv2d", {"up": 3}), LAYER_SHAPES), tmp_path / "model.onnx"
    )
    with pytest.raises(BundleError, match=r"model.onnx: node 'y': ModulatedConv2d: up must be 1 or 2, not 3"):
        lower(tmp_path / "model.onnx", tmp_path / "lowered.onnx")
    assert not (tmp_path / "lowered.onnx").exists()


def test_sizes_that_only_the_running_engine_knows_are_not_checked() -> None:
    Upfirdn2dNode.of(FIR).check_shapes({"x": [None] * 4, "f": [None] * 2})
    node = ModulatedConv2dNode.of(LAYER)
    node.check_shapes({name: [None] * len(shape) for name, shape in LAYER_SHAPES.items()})
    with pytest.raises(ValueError, match="noise is"):
        node.check_shapes(LAYER_SHAPES | {"style": (None, 3), "demod": (None, 5), "noise": (None, 1, 4, 1)})


def test_attributes_are_read_in_their_order() -> None:
    node = onnx.helper.make_node("Upfirdn2d", ["x", "f"], ["y"], domain=DOMAIN, plugin_namespace=DOMAIN, **FIR)
    assert Upfirdn2dNode.of(node_attributes(node)) == Upfirdn2dNode(Resampling((1, 2), (3, 1), (1, 2, 0, -1), False, 2.5), 3)
    arrays = {name: np.array(value) if isinstance(value, list) else value for name, value in FIR.items()}
    assert Upfirdn2dNode.of(arrays) == Upfirdn2dNode.of(FIR)
    assert ModulatedConv2dNode.of(LAYER) == ModulatedConv2dNode(2, Epilogue(0.2, 1.5, 0.0), 5)


@pytest.mark.parametrize(
    ("slope", "name"), [(0.2, "lrelu"), (float(np.float32(0.2)), "lrelu"), (1.0, "linear"), (0.20001, None)]
)
def test_a_slope_has_the_name_of_its_activation(slope: float, name: str | None) -> None:
    assert Epilogue(slope).activation == name


@pytest.mark.parametrize(
    "changes", [{"flip": "no"}, {"flip": 2}, {"gain": "4"}, {"gain": True}, {"gain": None}, {"up": b"12"}], ids=str
)
def test_python_arguments_of_another_type_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="upfirdn2d"):
        Resampling.of(**changes)
