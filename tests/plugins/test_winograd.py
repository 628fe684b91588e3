"""Winograd's matrices are exact, and layers in this form compute what the operators define."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from stylert.plugins.reference.modulated_conv2d import modulated_conv2d
from stylert.plugins.winograd import POINTS, exact_transforms, transforms
from stylert.plugins.winograd_rewrite import rewrite_as_winograd
from tests.draws import fresh
from tests.plugins.onnx_models import Arrays, one_node_model, session_of

FIR = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64


def layer_inputs(n: int, channels: tuple[int, int], size: tuple[int, int], up: int, noise_samples: int = 1) -> Arrays:
    """Random inputs of a ModulatedConv2d node."""
    rng, (inputs, outputs), (height, width) = fresh(), channels, size
    arrays = {
        "x": rng.standard_normal((n, inputs, height, width)),
        "weight": rng.standard_normal((outputs, inputs, 3, 3)) / np.sqrt(9 * inputs),
        "style": rng.uniform(0.5, 2, (n, inputs)) * rng.choice([-1, 1], (n, inputs)),
        "demod": rng.uniform(0.5, 2, (n, outputs)),
        "noise": rng.standard_normal((noise_samples, 1, up * height, up * width)),
        "bias": rng.standard_normal(outputs),
        "f": FIR,
    }
    return {name: value.astype(np.float32) for name, value in arrays.items()}


def layer_model(
    arrays: Arrays, up: int, constants: tuple[str, ...] = ("weight", "noise", "bias", "f"), clamp: float = 0.0
) -> onnx.ModelProto:
    """A model of one operator node, which states the size of its output."""
    outputs = len(arrays["bias"])
    model = one_node_model(
        "ModulatedConv2d", arrays, constants=constants, up=up, alpha=0.2, gain=1.5, clamp=clamp, group=outputs
    )
    dims = model.graph.output[0].type.tensor_type.shape.dim
    for dim, side in zip(dims[2:], arrays["x"].shape[2:], strict=True):
        dim.dim_value = up * side
    return model


def expected_in_float64(arrays: Arrays, up: int, clamp: float = 0.0) -> np.ndarray:
    """The reference operator, which does not use Winograd, in float64."""
    doubles = {name: torch.from_numpy(value).double() for name, value in arrays.items()}
    x, weight, style, demod, noise, bias, f = doubles.values()
    filtered = {"up": 2, "f": f} if up == 2 else {}
    y = modulated_conv2d(x, weight, style, demod, noise, bias, activation="lrelu", gain=1.5, clamp=clamp or None, **filtered)
    return y.numpy()


def rewritten(model: onnx.ModelProto, tile: int) -> onnx.ModelProto:
    assert [conv.name for conv in rewrite_as_winograd(model, lambda _: tile)] == ["y"]
    onnx.checker.check_model(model, full_check=True)
    assert not any(node.domain for node in model.graph.node)
    assert not model.functions
    return model


def run(model: onnx.ModelProto, arrays: Arrays) -> np.ndarray:
    names = {value.name for value in model.graph.input}
    return session_of(model).run(None, {name: value for name, value in arrays.items() if name in names})[0]


@pytest.mark.parametrize("tile", POINTS)
def test_the_matrices_are_exact_for_every_tap_and_pixel(tile: int) -> None:
    """The algorithm is bilinear, so it is right if it is right for all pairs of unit vectors."""
    output, kernel, inputs = exact_transforms(POINTS[tile])
    for pixel in range(tile):
        for tap in range(3):
            for position in range(tile + 2):
                terms = zip(output[pixel], kernel, inputs, strict=True)
                assert sum(a * g[tap] * b[position] for a, g, b in terms) == Fraction(position == pixel + tap)


@pytest.mark.parametrize("tile", POINTS)
def test_the_matrices_of_images_are_whole_numbers(tile: int) -> None:
    for matrix in (transforms(tile).output, transforms(tile).input):
        np.testing.assert_array_equal(matrix, np.rint(matrix))


def test_another_tile_is_refused() -> None:
    with pytest.raises(ValueError, match="2 or 4"):
        transforms(3)


@pytest.mark.parametrize("tile", POINTS)
@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 7), (9, 6), (16, 13)])
def test_a_layer_is_exact_for_any_batch_and_size(size: tuple[int, int], up: int, tile: int) -> None:
    rng = fresh()
    channels = (int(rng.integers(1, 24)), int(rng.integers(1, 24)))
    for n in (1, 3):
        arrays = layer_inputs(n, channels, size, up)
        images = run(rewritten(layer_model(arrays, up), tile), arrays)
        expected = expected_in_float64(arrays, up)
        assert images.shape == expected.shape
        assert np.abs(images - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("up", [1, 2])
def test_noise_may_be_an_input_and_results_may_be_clamped(up: int) -> None:
    for noise_samples in (1, 2):
        arrays = layer_inputs(2, (8, 6), (6, 5), up, noise_samples)
        model = layer_model(arrays, up, ("weight", "bias", "f"), clamp=0.7)
        images, expected = run(rewritten(model, 4), arrays), expected_in_float64(arrays, up, 0.7)
        assert np.abs(images - expected).max() < 1e-5
        assert np.abs(images).max() == np.float32(0.7)


def test_the_reference_evaluator_of_onnx_agrees() -> None:
    arrays = layer_inputs(2, (5, 4), (6, 6), 2)
    model = rewritten(layer_model(arrays, 2), 4)
    names = {value.name for value in model.graph.input}
    (images,) = ReferenceEvaluator(model).run(None, {name: value for name, value in arrays.items() if name in names})
    expected = expected_in_float64(arrays, 2)
    assert np.abs(images - expected).max() < 1e-5 * np.abs(expected).max()


def test_the_file_does_not_grow_by_transformed_kernels() -> None:
    arrays = layer_inputs(1, (64, 64), (8, 8), 1)
    model = layer_model(arrays, 1)
    before = model.ByteSize()
    assert rewritten(model, 4).ByteSize() < before + 32_000  # 36 times 64 x 64 floats are 590 kB


def test_the_transformed_kernels_are_folded_when_a_session_opens(tmp_path) -> None:  # type: ignore[no-untyped-def]
    import onnxruntime

    arrays = layer_inputs(1, (8, 8), (8, 8), 1)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    content = rewritten(layer_model(arrays, 1), 4).SerializeToString()
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(tmp_path / "optimized.onnx")
    assert [36, 8, 8] in [list(tensor.dims) for tensor in optimized.graph.initializer]
    assert not [tensor for tensor in optimized.graph.initializer if list(tensor.dims) == [8, 8, 3, 3]]


@pytest.mark.parametrize("changing", ["weight", "bias", "f"])
def test_a_node_whose_constants_are_inputs_is_left(changing: str) -> None:
    arrays = layer_inputs(1, (4, 4), (8, 8), 1)
    model = layer_model(arrays, 1, tuple({"weight", "bias", "f"} - {changing}))
    before = model.SerializeToString()
    assert rewrite_as_winograd(model, lambda _: 4) == []
    assert model.SerializeToString() == before


def test_a_node_of_unknown_size_is_left() -> None:
    arrays = layer_inputs(1, (4, 4), (8, 8), 1)
    model = layer_model(arrays, 1)
    model.graph.output[0].type.tensor_type.shape.dim[3].ClearField("dim_value")
    assert rewrite_as_winograd(model, lambda _: 4) == []
