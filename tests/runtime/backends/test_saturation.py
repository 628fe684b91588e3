"""8-bit convolutions are exact on every processor: the libraries themselves, held to the instructions of older ones.

OpenVINO runs in a process of its own, whose instruction set `ONEDNN_MAX_CPU_ISA` limits. ONNX Runtime has no such limit.
Its own products are those of this processor, which the emulation gives for either kind.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from stylert.core.machine.byte_products import byte_pairs_saturate, limit_pairs
from stylert.core.machine.host import instruction_sets
from stylert.runtime.backends.onnxruntime import UNSIGNED_WEIGHTS
from stylert.runtime.backends.openvino_products import make_products_exact
from tests.vpmaddubsw import convolution, transposed_convolution

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="instructions of x86")

INPUTS, OUTPUTS, SIZE = 32, 16, 8

#: The limit of oneDNN, and the layers that OpenVINO then does not compute exactly.
LIMITS = [
    ("AVX2", "pairs"),
    pytest.param(
        "AVX512_CORE",
        "pairs, transposed",
        marks=pytest.mark.skipif("avx512f" not in (instruction_sets() or []), reason="this processor has no AVX-512"),
    ),
]

RUN_OPENVINO = """
import sys
import numpy as np
from stylert.runtime.backends.openvino import library
network = library().Core().compile_model(sys.argv[1], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
np.save(sys.argv[3], network(np.load(sys.argv[2]))[0])
"""


@pytest.fixture
def levels(rng: np.random.Generator) -> np.ndarray:
    """Signed activations, many of them at the ends of their range."""
    return rng.choice([-127, -3, 60, 127, 127], (INPUTS, SIZE, SIZE))


@pytest.fixture
def kernel(rng: np.random.Generator) -> np.ndarray:
    """Even weights, which half as large ones represent exactly, and odd ones."""
    return rng.integers(-127, 128, (OUTPUTS, INPUTS, 3, 3)).astype(np.int8)


@pytest.mark.parametrize(("limit", "inexact"), LIMITS)
@pytest.mark.parametrize("transposed", [False, True])
def test_openvino_is_exact_with_limited_pairs_or_float_weights(
    tmp_path: Path, levels: np.ndarray, kernel: np.ndarray, limit: str, inexact: str, transposed: bool
) -> None:
    def run(model: onnx.ModelProto) -> np.ndarray:
        files = [str(tmp_path / name) for name in ("network.onnx", "x.npy", "y.npy")]
        onnx.save(model, files[0])
        np.save(files[1], levels[None].astype(np.float32))
        environment = os.environ | {"ONEDNN_MAX_CPU_ISA": limit}
        subprocess.run([sys.executable, "-c", RUN_OPENVINO, *files], env=environment, check=True, timeout=120)
        return np.load(files[2])[0]

    pytest.importorskip("openvino")
    exact, saturated = (in_integers(levels, kernel, transposed, saturate) for saturate in (False, True))
    halved = in_integers(levels, 2 * np.rint(kernel / 2), transposed, False)
    expected = halved if transposed and "transposed" in inexact else saturated
    np.testing.assert_array_equal(run(network(kernel, transposed)), expected)

    with_float_weights = network(kernel, transposed)
    assert make_products_exact(with_float_weights, inexact) == ["conv"]
    np.testing.assert_array_equal(run(with_float_weights), exact)

    limited = limit_pairs(kernel)
    model = network(limited, transposed)
    changed = make_products_exact(model, inexact)
    assert changed == (["conv"] if transposed and "transposed" in inexact else [])
    np.testing.assert_array_equal(run(model), in_integers(levels, limited, transposed, False))


def test_layers_that_are_exact_keep_their_8_bits(kernel: np.ndarray) -> None:
    """Even weights of a transposed convolution may be halved, and one channel for each output has no pairs."""
    assert not make_products_exact(network((kernel // 2 * 2).astype(np.int8), True), "pairs, transposed")
    depthwise = network(kernel[:, :1], False)
    depthwise.graph.node[-1].attribute.append(onnx.helper.make_attribute("group", OUTPUTS))
    assert not make_products_exact(depthwise, "pairs, transposed")


@pytest.mark.parametrize("symmetric", [False, True])
def test_unsigned_weights_make_onnx_runtime_exact(levels: np.ndarray, kernel: np.ndarray, symmetric: bool) -> None:
    zero_point, step = 0 if symmetric else 100, 1024

    def run(unsigned_weights: bool) -> np.ndarray:
        options = ort.SessionOptions()
        options.add_session_config_entry(UNSIGNED_WEIGHTS, str(int(unsigned_weights)))
        data = network(kernel, False, zero_point, symmetric, output_step=step).SerializeToString()
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return session.run(None, {"x": x[None].astype(np.float32)})[0][0]

    x = levels if symmetric else levels.clip(-100)
    exact, saturated = (
        np.clip(np.rint(in_integers(x, kernel, False, saturate, zero_point, symmetric) / step), -128, 127) * step
        for saturate in (False, True)
    )
    assert (exact != saturated).any()
    np.testing.assert_array_equal(run(True), exact)
    np.testing.assert_array_equal(run(False), saturated if byte_pairs_saturate() else exact)


def in_integers(
    x: np.ndarray, kernel: np.ndarray, transposed: bool, saturate: bool, zero_point: int = 0, symmetric: bool = True
) -> np.ndarray:
    """The layer by the emulation. Libraries raise signed activations by 128."""
    level_of_zero = 128 if symmetric else zero_point
    run = transposed_convolution if transposed else convolution
    return run(x + level_of_zero, kernel, level_of_zero, saturate)


def network(
    kernel: np.ndarray, transposed: bool, zero_point: int = 0, symmetric: bool = True, output_step: float | None = None
) -> onnx.ModelProto:
    """One 8-bit layer with steps of 1, so that its result is the integers themselves. `kernel` is `[O, I, k, k]`."""
    helper, arrays = onnx.helper, onnx.numpy_helper
    dtype = np.int8 if symmetric else np.uint8
    constants = {
        "one": np.float32(1),
        "zero": np.array(zero_point, dtype),
        "weight_q": kernel.swapaxes(0, 1) if transposed else kernel,
        "scales": np.ones(OUTPUTS, np.float32),
        "zeros": np.zeros(OUTPUTS, np.int8),
    }
    output = "y" if output_step is None else "convolved"
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "one", "zero"], ["x_dq"]),
        helper.make_node("DequantizeLinear", ["weight_q", "scales", "zeros"], ["weight"], axis=int(transposed)),
    ]
    if output_step is not None:
        constants |= {"step": np.float32(output_step), "middle": np.array(0 if symmetric else 128, dtype)}
        nodes += [
            helper.make_node("QuantizeLinear", ["convolved", "step", "middle"], ["y_q"]),
            helper.make_node("DequantizeLinear", ["y_q", "step", "middle"], ["y"]),
        ]
    if transposed:
        layer = helper.make_node("ConvTranspose", ["x_dq", "weight"], [output], "conv", strides=[2, 2])
    else:
        layer = helper.make_node("Conv", ["x_dq", "weight"], [output], "conv", pads=[1] * 4)
    graph = helper.make_graph(
        [*nodes[:3], layer, *nodes[3:]],
        "layer",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, INPUTS, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [arrays.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
