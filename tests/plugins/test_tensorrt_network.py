"""A network that is prepared for the TensorRT plugins computes the images of the network that it was made from."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from stylert.export.network_plan import NetworkPlan, float16_plan
from stylert.export.synthesis import synthesis_model
from stylert.models.checkpoint import read_generator
from stylert.plugins.onnx_functions import DOMAIN
from stylert.plugins.reference.upfirdn2d import upfirdn2d
from stylert.plugins.tensorrt_network import operator_nodes, prepare_for_plugins


class ModulatedConv2d(OpRun):
    """The operator with a weight `[P, O, K, K, I]`, by its definition: a convolution for each phase of the output."""

    op_domain = DOMAIN

    def _run(self, x, weight, style, demod, noise, bias, f, up, alpha, gain, clamp, group, plugin_namespace):
        assert weight.shape[0] == up * up
        dtype = x.dtype
        x, weight, style, demod, noise, bias = (
            torch.from_numpy(np.array(a, np.float64)) for a in (x, weight, style, demod, noise, bias)
        )
        n, o, (h, w) = style.shape[0], weight.shape[1], x.shape[2:]
        y = torch.empty(n, o, h * up, w * up, dtype=torch.float64)
        modulated = x * style[:, :, None, None]
        for phase, taps in enumerate(weight.permute(0, 1, 4, 2, 3)):
            pixels = torch.nn.functional.conv2d(modulated, taps, padding=taps.shape[-1] // 2)
            y[:, :, phase // up :: up, phase % up :: up] = pixels
        y = y * demod[:, :, None, None] + noise + bias[:, None, None]
        y = gain * torch.where(y > 0, y, alpha * y)
        return ((y.clamp(-clamp, clamp) if clamp else y).numpy().astype(dtype),)


class Upfirdn2d(OpRun):
    op_domain = DOMAIN

    def _run(self, x, f, up, down, padding, flip, gain, group, plugin_namespace):
        arrays = [torch.from_numpy(np.array(a, np.float64)) for a in (x, f)]
        return (upfirdn2d(*arrays, up, down, padding, bool(flip), gain).numpy().astype(x.dtype),)


def images_of_functions(model: onnx.ModelProto, ws: np.ndarray) -> np.ndarray:
    """By ONNX Runtime, which inlines the operators' functions."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"ws": ws})[0], np.float64)


def images_of_operators(model: onnx.ModelProto, ws: np.ndarray) -> np.ndarray:
    """By ONNX's evaluator, with the operators above in place of the functions."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    del model.functions[:]
    evaluator = ReferenceEvaluator(model, new_ops=[ModulatedConv2d, Upfirdn2d])
    return np.asarray(evaluator.run(None, {"ws": ws})[0], np.float64)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_the_prepared_network_makes_the_same_images(checkpoint, rng, half):
    weights = read_generator(checkpoint)
    plan = float16_plan(weights) if half else NetworkPlan()
    model = synthesis_model(weights, "const", plan=plan)
    prepared = onnx.ModelProto.FromString(model.SerializeToString())
    prepare_for_plugins(prepared)
    ws = rng.standard_normal((2, weights.config.num_ws, weights.config.w_dim)).astype(np.float32)
    before, after = images_of_functions(model, ws), images_of_operators(prepared, ws)
    # uint8: float32 rounds an image in another order, float16 folded weights as well.
    assert np.abs(before - after).max() <= (3 if half else 1)
    assert np.abs(before - after).mean() <= (0.3 if half else 0.01)
    assert before.std() > 5


def test_every_weight_is_folded_and_no_plane_is_flattened(checkpoint):
    weights = read_generator(checkpoint)
    model = synthesis_model(weights, "const", plan=float16_plan(weights))
    count = len(operator_nodes(model))
    prepare_for_plugins(model)
    assert len(operator_nodes(model)) == count
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in operator_nodes(model):
        if node.op_type == "ModulatedConv2d":
            values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            weight = tensors[node.input[1]]
            assert list(weight.dims[:2]) == [values["up"] ** 2, values["group"]]
            assert weight.dims[2] == weight.dims[3] == 3
            assert weight.data_type == onnx.TensorProto.FLOAT16
    # Between a plugin and a torgb lies no reshape of its planes, only a transposition to channels last.
    written = {node.output[0] for node in operator_nodes(model) if node.op_type == "ModulatedConv2d"}
    readers = [node for node in model.graph.node if set(node.input) & written and node.domain != DOMAIN]
    assert {node.op_type for node in readers} == {"Transpose"}
    read = {name for node in model.graph.node for name in node.input}
    assert set(tensors) <= read  # the weights before folding are gone
