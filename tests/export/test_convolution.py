"""A convolution in 8 bits: what reaches its operands, and where the pixels of its phases go."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from stylert.export.network_plan import (
    ConvForm,
    Fp8Quantization,
    Int8Quantization,
    LayerPlan,
    NetworkPlan,
    QuantParams,
    float32_plan,
)
from stylert.export.synthesis import synthesis_model
from tests.draws import fresh
from tests.export.networks import random_network, random_weights, random_ws, run, synthesize64


def test_the_8_bit_taps_of_the_fir_are_exact() -> None:
    weights = random_weights(resolution=16)
    int8 = Int8Quantization(QuantParams(0.05), QuantParams(0.05))
    plan = NetworkPlan({"b16.conv0": LayerPlan("transposed", quantization=int8)})
    model = synthesis_model(weights, "const", "float", plan)
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name.startswith("b16.conv0.fir_")}
    taps = stored["b16.conv0.fir_q"] * stored["b16.conv0.fir_scale"][:, None, None, None]
    exact = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 16
    np.testing.assert_allclose(taps, np.broadcast_to(exact, taps.shape), rtol=1e-6)


@pytest.mark.parametrize("form", ["phases", "polyphase"])
def test_phases_become_the_same_pixels_in_8_bits_as_in_float(form: ConvForm) -> None:
    """The rounding of one layer changes an image little. Pixels at wrong positions would change all of it."""
    weights, generator = random_network(resolution=16)
    ws = random_ws(weights, 3)
    float_plan = float32_plan(weights.config, form)
    model = synthesis_model(weights, "const", "float", float_plan, observe=["b16.conv0"])
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    sides = session.run(["b16.conv0.modulated", "b16.conv0.conv"], {"ws": ws})
    int8 = Int8Quantization(*(QuantParams(float(np.abs(side).max()) / 127) for side in sides))
    plan = NetworkPlan({**float_plan.layers, "b16.conv0": LayerPlan(form, quantization=int8)})
    images = run(synthesis_model(weights, "const", "float", plan), ws=ws)
    expected = synthesize64(generator, ws, "const")
    variance = np.square(expected - expected.mean((2, 3), keepdims=True)).mean()
    assert np.sqrt(np.square(images - expected).mean() / variance) < 0.3


@pytest.mark.parametrize(("name", "form"), [("b16.conv1", "phases"), ("b16.conv0", "transposed")])
def test_an_fp8_convolution_multiplies_e4m3_numbers_and_nothing_else_changes(name: str, form: ConvForm) -> None:
    weights = random_weights(resolution=16)
    scale = float(fresh().uniform(0.01, 0.1))
    ws = random_ws(weights, 2)
    float_plan = float32_plan(weights.config, form)
    fp8_plan = NetworkPlan({**float_plan.layers, name: LayerPlan(form, quantization=Fp8Quantization(scale))})
    models = [synthesis_model(weights, "const", "float", plan, observe=[name]) for plan in (float_plan, fp8_plan)]
    sessions = [ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]) for m in models]
    (x, conv), (fp8_x, fp8_conv) = (s.run([f"{name}.modulated", f"{name}.conv"], {"ws": ws}) for s in sessions)
    np.testing.assert_array_equal(fp8_x, x)

    def e4m3(values: np.ndarray, step: np.ndarray | float) -> np.ndarray:
        """By the definition of the format: four significant bits, subnormal below 2^-6, greatest value 448."""
        v = np.asarray(values, np.float32) / np.float32(step)
        exponent = np.maximum(np.floor(np.log2(np.maximum(np.abs(v), 1e-30))), -6)
        quantum = 2.0 ** (exponent - 3)
        return np.clip(np.rint(v / quantum) * quantum, -448, 448) * np.float32(step)

    weight = weights.arrays[f"synthesis.{name}.weight"].astype(np.float64)
    steps = np.abs(weight).max((1, 2, 3), keepdims=True).astype(np.float32) / np.float32(448)
    operands = torch.from_numpy(e4m3(x, scale)).double(), torch.from_numpy(e4m3(weight, steps)).double()
    if name.endswith("conv1"):
        expected = torch.nn.functional.conv2d(*operands, padding=1).numpy()
    else:
        expected = torch.nn.functional.conv_transpose2d(operands[0], operands[1].transpose(0, 1), stride=2).numpy()
    # Float32 rounds a few values in a million, which lie between two E4M3 numbers, to the other one.
    differs = np.abs(fp8_conv - expected) > 1e-4 * np.abs(expected).max()
    assert differs.mean() < 0.02
    assert np.abs(fp8_conv - conv).max() > 1e-3 * np.abs(conv).max(), "the layer must be rounded at all"
