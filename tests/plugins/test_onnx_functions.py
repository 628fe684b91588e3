"""The ONNX function bodies equal the PyTorch reference, in ONNX Runtime and in ONNX's own evaluator."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stylert.plugins.onnx_functions import DOMAIN, DOMAIN_VERSION, OPSET, function_protos, opset_imports
from stylert.plugins.reference.modulated_conv2d import modulated_conv2d
from stylert.plugins.reference.upfirdn2d import upfirdn2d
from tests.plugins.onnx_models import by_evaluator, by_onnxruntime, one_node_model, session_of

pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
paddings = st.tuples(*[st.integers(-4, 5)] * 4)
sizes = st.tuples(st.integers(1, 6), st.integers(1, 6))
seeds = st.integers(0, 2**32 - 1)


def inferred_shape(model):
    """The output shape that ONNX Runtime infers. onnx.shape_inference does not fold constants, so it finds none."""
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return session_of(model).get_outputs()[0].shape


def upfirdn_case(size, taps, up, down, padding, flip, seed, dtype=np.float32):
    top, bottom, left, right = padding
    assume(size[0] * up[0] + top + bottom >= taps[0] and size[1] * up[1] + left + right >= taps[1])
    rng = np.random.default_rng(seed)
    channels, gain = int(rng.integers(1, 4)), float(rng.uniform(-1, 4))
    inputs = {"x": rng.normal(size=(2, channels, *size)).astype(dtype), "f": rng.normal(size=taps).astype(np.float32)}
    attributes = {"up": up, "down": down, "padding": padding, "flip": int(flip), "gain": gain, "group": channels}
    x, f = torch.from_numpy(inputs["x"]), torch.from_numpy(inputs["f"])
    expected = upfirdn2d(x.double(), f.double(), up, down, padding, flip, gain).numpy()
    return inputs, attributes, expected


@settings(deadline=None, max_examples=60)
@given(sizes, st.tuples(st.integers(1, 5), st.integers(1, 5)), pairs, pairs, paddings, st.booleans(), seeds)
def test_upfirdn2d_body_equals_the_reference(size, taps, up, down, padding, flip, seed):
    inputs, attributes, expected = upfirdn_case(size, taps, up, down, padding, flip, seed)
    model = one_node_model("Upfirdn2d", inputs, **attributes)
    for y in (by_onnxruntime(model, inputs), by_evaluator(model, inputs)):
        assert y.dtype == np.float32
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=30)
@given(sizes, pairs, pairs, paddings, seeds)
def test_upfirdn2d_body_takes_dynamic_shapes_and_float16(size, up, down, padding, seed):
    inputs, attributes, expected = upfirdn_case(size, (3, 2), up, down, padding, False, seed, np.float16)
    inputs["f"] = inputs["f"].astype(np.float16)
    model = one_node_model("Upfirdn2d", inputs, static=False, dtype=np.float16, **attributes)
    y = by_onnxruntime(model, inputs)
    assert y.dtype == np.float16
    np.testing.assert_allclose(y, expected, rtol=2e-2, atol=6e-2)


@settings(deadline=None, max_examples=40)
@given(sizes, st.tuples(st.integers(1, 5), st.integers(1, 5)), pairs, pairs, paddings, seeds)
def test_upfirdn2d_shape_inference_gives_the_output_shape(size, taps, up, down, padding, seed):
    inputs, attributes, expected = upfirdn_case(size, taps, up, down, padding, False, seed)
    shape = inferred_shape(one_node_model("Upfirdn2d", inputs, **attributes))
    assert shape == list(expected.shape)


def modulated_case(n, i, o, size, up, kernel, alpha, clamp, noise, seed, dtype=np.float32):
    rng = np.random.default_rng(seed)
    h, w = size
    noises = {"scalar": (1, 1, 1, 1), "image": (1, 1, h * up, w * up), "batch": (n, 1, h * up, w * up)}
    shapes = {
        "x": (n, i, h, w),
        "weight": (o, i, kernel, kernel),
        "style": (n, i),
        "demod": (n, o),
        "noise": noises[noise],
        "bias": (o,),
        "f": (4, 4),
    }
    inputs = {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
    gain = float(rng.uniform(0.2, 3))
    attributes = {"up": up, "alpha": alpha, "gain": gain, "clamp": clamp, "group": o}
    x, weight, style, demod, noise_, bias, f = (torch.from_numpy(a).double() for a in inputs.values())
    y = modulated_conv2d(x, weight, style, demod, noise_, bias, up=up, f=f).numpy()
    expected = gain * np.where(y > 0, y, alpha * y)
    expected = np.clip(expected, -clamp, clamp) if clamp else expected
    return inputs, attributes, expected


modulated_cases = {
    "n": st.integers(1, 3),
    "i": st.integers(1, 4),
    "o": st.integers(1, 4),
    "size": sizes,
    "layer": st.sampled_from([(1, 1), (1, 3), (2, 3)]),
    "alpha": st.sampled_from([0.2, 1.0]) | st.floats(0, 1),
    "clamp": st.sampled_from([0.0, 0.5, 3.0]),
    "noise": st.sampled_from(["scalar", "image", "batch"]),
    "seed": seeds,
}


@settings(deadline=None, max_examples=100)
@given(**modulated_cases)
def test_modulated_conv2d_body_equals_the_reference(n, i, o, size, layer, alpha, clamp, noise, seed):
    inputs, attributes, expected = modulated_case(n, i, o, size, *layer, alpha, clamp, noise, seed)
    model = one_node_model("ModulatedConv2d", inputs, **attributes)
    for y in (by_onnxruntime(model, inputs), by_evaluator(model, inputs)):
        assert y.dtype == np.float32
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=5e-4)


@settings(deadline=None, max_examples=30)
@given(**modulated_cases)
def test_modulated_conv2d_body_takes_dynamic_shapes_and_float16(n, i, o, size, layer, alpha, clamp, noise, seed):
    inputs, attributes, expected = modulated_case(n, i, o, size, *layer, alpha, clamp, noise, seed, np.float16)
    y = by_onnxruntime(one_node_model("ModulatedConv2d", inputs, False, np.float16, **attributes), inputs)
    assert y.dtype == np.float16
    np.testing.assert_allclose(y, expected, rtol=2e-2, atol=2e-2 * max(1, np.abs(expected).max()))


@settings(deadline=None, max_examples=40)
@given(**modulated_cases)
def test_modulated_conv2d_shape_inference_gives_the_output_shape(n, i, o, size, layer, alpha, clamp, noise, seed):
    inputs, attributes, expected = modulated_case(n, i, o, size, *layer, alpha, clamp, noise, seed)
    assert inferred_shape(one_node_model("ModulatedConv2d", inputs, **attributes)) == list(expected.shape)


@pytest.mark.parametrize("proto", function_protos(), ids=lambda p: p.name)
def test_every_declared_attribute_reaches_the_body(proto):
    def references(nodes):
        for node in nodes:
            for attribute in node.attribute:
                yield attribute.ref_attr_name
                yield from references(attribute.g.node)

    assert set(references(proto.node)) - {""} == set(proto.attribute)
    assert proto.domain == DOMAIN


def test_imports_name_the_opset_and_the_domain():
    assert {i.domain: i.version for i in opset_imports()} == {"": OPSET, DOMAIN: DOMAIN_VERSION}
