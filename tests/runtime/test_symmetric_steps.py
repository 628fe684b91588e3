"""Symmetric steps that are derived from the canonical INT8 network when TensorRT or TensorRT-RTX builds an engine of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from stylert.runtime import Bundle
from stylert.runtime.lowering import lower
from stylert.runtime.symmetric_steps import make_symmetric, symmetric_rewrite


def quantisations(model: onnx.ModelProto) -> list[tuple[str, int, bool]]:
    """Operator, type of the zero point and whether it is zero, of every quantisation with one scale."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    return [
        (node.op_type, constants[node.input[2]].data_type, not numpy_helper.to_array(constants[node.input[2]]).any())
        for node in model.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    ]


def test_no_zero_point_is_left_and_the_images_stay_as_near(bundle: Bundle, tmp_path: Path, rng: np.random.Generator) -> None:
    pytest.importorskip("onnxscript")
    source = bundle.path / bundle.precision("int8").file
    before = onnx.load(lower(source, tmp_path / "before.onnx"))
    assert any(kind == TensorProto.UINT8 for _, kind, _ in quantisations(before))
    after = onnx.load(lower(source, tmp_path / "after.onnx", rewrite=symmetric_rewrite("int8")))
    onnx.checker.check_model(after, full_check=True)
    assert quantisations(after)
    assert all(kind == TensorProto.INT8 and zero for _, kind, zero in quantisations(after))

    def images(file: Path, ws: np.ndarray) -> np.ndarray:
        session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {"ws": ws})[0], np.float64)

    ws = rng.standard_normal((8, bundle.num_ws, 20)).astype(np.float32)
    exact = images(bundle.path / "synthesis.fp32.onnx", ws)
    noise = [10 * np.log10(np.square(images(tmp_path / f"{name}.onnx", ws) - exact).mean()) for name in ("before", "after")]
    # A range with a zero point has up to half the steps. But results of convolutions are not rounded any more.
    assert noise[1] < noise[0] + 6


def test_a_range_is_held_by_its_symmetric_one_and_a_result_of_a_convolution_stays_float() -> None:
    scale, zero = np.float32(0.5), 55  # from -27.5 to 100
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Conv", ["d", "w"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["cq"]),
        helper.make_node("Transpose", ["cq"], ["t"], perm=[0, 1, 3, 2]),
        helper.make_node("DequantizeLinear", ["t", "s", "z"], ["y"]),
        helper.make_node("Relu", ["y"], ["out"]),
    ]
    constants = {"s": scale, "z": np.uint8(zero), "w": np.ones((1, 1, 1, 1), np.float32)}
    shape = [1, 1, 2, 3]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 1, 3, 2])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    assert make_symmetric(model) == 1
    onnx.checker.check_model(model, full_check=True)
    x = np.array([[[[100, -27.5, 3.1], [0, 50, 99]]]], np.float32)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {"x": x})
    step = 100 / 127
    expected = np.maximum(np.clip(np.round(x / step), -127, 127) * step, 0).transpose(0, 1, 3, 2)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    assert make_symmetric(model) == 0  # an own file of TensorRT is as it should be


@pytest.mark.parametrize("precision", ["fp32", "fp16", "fp8"])
def test_other_precisions_are_left_as_they_are(precision: str) -> None:
    assert symmetric_rewrite(precision) is None
