"""The exported synthesis network computes what the PyTorch network computes, in every form, for any batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import onnx.inliner
import onnx.shape_inference
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from stylert.core.errors import CheckpointError
from stylert.export.network_plan import (
    WINOGRAD_TILES,
    ConvForm,
    LayerPlan,
    Migration,
    RgbForm,
    conv_layers,
    float16_plan,
    float32_plan,
    rgb_layers,
)
from stylert.export.synthesis import NoiseInput, synthesis_model
from stylert.models.checkpoint import GeneratorWeights
from stylert.models.stylegan2.config import GeneratorConfig
from stylert.runtime.lowering import lower
from tests.export.networks import (
    assert_close,
    peak_snr_db,
    random_network,
    random_weights,
    random_ws,
    run,
    synthesize64,
)


@pytest.mark.parametrize("for_openvino", [False, True])
@pytest.mark.parametrize("clamp", [None, 0.9])
@pytest.mark.parametrize("noise", ["const", "none"])
@pytest.mark.parametrize("rgb_form", get_args(RgbForm))
@pytest.mark.parametrize("form", get_args(ConvForm))
def test_every_form_equals_the_float64_network(
    form: ConvForm, noise: NoiseInput, rgb_form: RgbForm, clamp: float | None, for_openvino: bool
) -> None:
    weights, generator = random_network(conv_clamp=clamp, resolution=32)
    ws = random_ws(weights, 3)
    plan = float32_plan(weights.config, form, rgb_form)
    if for_openvino:
        plan = replace(plan, per_sample_bias=True, split_styles=True)
    model = synthesis_model(weights, noise, "float", plan)
    expected = synthesize64(generator, ws, noise)
    assert_close(run(model, ws=ws), expected, 1e-5)
    for i in range(3):
        assert_close(run(model, ws=ws[i : i + 1]), expected[i : i + 1], 1e-5)


@pytest.mark.parametrize("half", [False, True])
def test_each_torgb_may_have_a_form_and_a_migration_of_its_own(half: bool, rng: np.random.Generator) -> None:
    """The migrations include those with an input power, where torgb multiplies by the norm of its style."""
    weights, generator = random_network(resolution=32, conv_clamp=0.9)
    plan = float16_plan(weights, "phases") if half else float32_plan(weights.config, "phases")
    for _ in range(6):
        layers = {}
        for spec in rgb_layers(weights.config):
            channels = spec.in_channels
            power = rng.uniform(0.1, 10, channels) if rng.random() < 0.5 else None
            migration = Migration(rng.uniform(0.1, 10, channels), np.ones(3), power) if rng.random() < 0.7 else None
            layers[spec.name] = LayerPlan(rng.choice(get_args(RgbForm)), migration)
        model = synthesis_model(weights, "const", "float", replace(plan, layers={**plan.layers, **layers}))
        ws = (np.array([1, 30])[:, None, None] * rng.standard_normal((2, 8, 20))).astype(np.float32)
        expected = synthesize64(generator, ws, "const")
        if half:
            assert peak_snr_db(run(model, ws=ws), expected) > 45
        else:
            assert_close(run(model, ws=ws), expected, 1e-5)


@pytest.mark.parametrize("rgb_form", get_args(RgbForm))
@pytest.mark.parametrize("form", [form for form in get_args(ConvForm) if form not in WINOGRAD_TILES])
@pytest.mark.parametrize("architecture", ["skip", "resnet"])
def test_float16_stays_near_pytorch(form: ConvForm, architecture: str, rgb_form: RgbForm) -> None:
    weights, generator = random_network(resolution=32, architecture=architecture)
    ws = random_ws(weights, 3)
    model = synthesis_model(weights, "const", "float", float16_plan(weights, form, rgb_form))
    expected = generator.float().synthesis(torch.from_numpy(ws), "const").numpy()
    assert peak_snr_db(run(model, ws=ws), expected) > 50


@pytest.mark.parametrize("size", [1e-3, 1.0, 10.0, 1e4])
def test_float16_is_finite_and_right_for_any_size_of_ws_and_weights(size: float, rng: np.random.Generator) -> None:
    weights, generator = random_network(resolution=32)
    for name, value in weights.arrays.items():
        if name.endswith(("conv0.weight", "conv1.weight")):  # demodulation cancels their scale, float16 alone would not
            value *= 10.0 ** rng.uniform(-3, 3, (len(value), 1, 1, 1))
    generator.load_state_dict({name: torch.from_numpy(value) for name, value in weights.arrays.items()})
    ws = (size * rng.standard_normal((2, 8, 20))).astype(np.float32)
    images = run(synthesis_model(weights, "const", "float", float16_plan(weights)), ws=ws)
    assert np.isfinite(images).all()
    assert peak_snr_db(images, synthesize64(generator, ws, "const")) > 45


@pytest.mark.parametrize("per_sample_bias", [False, True])
@pytest.mark.parametrize("architecture", ["skip", "resnet"])
@pytest.mark.parametrize(("form", "rgb_form"), [("operator", "matmul"), ("transposed", "conv"), ("phases", "matmul_nhwc")])
def test_activations_divided_by_a_power_of_two_give_the_same_images(
    form: ConvForm, rgb_form: RgbForm, architecture: str, per_sample_bias: bool
) -> None:
    weights, generator = random_network(architecture=architecture, conv_clamp=0.9)
    ws = random_ws(weights, 2)
    plan = replace(float32_plan(weights.config, form, rgb_form), activation_scale=8.0, per_sample_bias=per_sample_bias)
    model = synthesis_model(weights, "const", "float", plan)
    expected = generator.float().synthesis(torch.from_numpy(ws), "const").numpy()
    assert_close(run(model, ws=ws), expected, 1e-5)


@pytest.mark.parametrize("name", ["b4.const", "b8.conv1.bias", "b16.conv0.noise_strength", "b16.torgb.weight"])
@pytest.mark.parametrize(("form", "rgb_form"), [("operator", "matmul"), ("polyphase", "matmul_nhwc"), ("phases", "conv")])
def test_float16_is_right_for_constants_beyond_its_range(name: str, form: ConvForm, rgb_form: RgbForm) -> None:
    weights, generator = random_network(conv_clamp=None)
    weights.arrays[f"synthesis.{name}"] *= np.float32(1e6)
    generator.load_state_dict({key: torch.from_numpy(value) for key, value in weights.arrays.items()})
    ws = random_ws(weights, 2)
    images = run(synthesis_model(weights, "const", "float", float16_plan(weights, form, rgb_form)), ws=ws)
    assert peak_snr_db(images, synthesize64(generator, ws, "const")) > 45


def test_a_constant_that_float16_cannot_hold_is_refused_by_name() -> None:
    weights = random_weights(architecture="resnet")
    weights.arrays["synthesis.b8.skip.weight"][0, 0, 0, 0] = 1e7  # nothing cancels the scale of a shortcut
    with pytest.raises(CheckpointError, match=r"float16 cannot hold b8\.skip\.weight .* leave this precision out"):
        synthesis_model(weights, plan=float16_plan(weights))


def test_float16_convolutions_are_float16_and_the_image_is_not() -> None:
    weights = random_weights(resolution=16)
    model = onnx.shape_inference.infer_shapes(
        synthesis_model(weights, "const", "float", float16_plan(weights, "phases")), check_type=True, strict_mode=True
    )
    types = {v.name: v.type.tensor_type.elem_type for v in [*model.graph.value_info, *model.graph.output]}
    types |= {t.name: t.data_type for t in model.graph.initializer}
    for node in model.graph.node:
        if node.name in ("affine", "energies") or node.name.endswith(".upsampled"):
            assert types[node.output[0]] == onnx.TensorProto.FLOAT, node.name
        elif node.op_type in ("Conv", "ConvTranspose"):
            assert {types[name] for name in [*node.input, *node.output]} == {onnx.TensorProto.FLOAT16}, node.name


def test_the_onnx_reference_evaluator_agrees() -> None:
    weights, generator = random_network(resolution=8)
    ws = random_ws(weights, 2)
    model = onnx.inliner.inline_local_functions(synthesis_model(weights, "const", "float"))
    assert_close(ReferenceEvaluator(model).run(None, {"ws": ws})[0], synthesize64(generator, ws, "const"), 1e-5)


def test_noise_inputs_replace_the_constants() -> None:
    weights, generator = random_network()
    ws = random_ws(weights, 2)
    noise = {
        f"noise_{s.resolution}_{s.name.split('.')[1]}": np.tile(weights.arrays[f"synthesis.{s.name}.noise_const"], (2, 1, 1, 1))
        for s in conv_layers(weights.config)
    }
    expected = synthesize64(generator, ws, "const")
    forms: tuple[ConvForm, ...] = ("operator", "phases")
    for form in forms:
        model = synthesis_model(weights, "input", "float", float32_plan(weights.config, form))
        assert_close(run(model, ws=ws, **noise), expected, 1e-5)


def test_bytes_are_the_official_conversion_of_the_floats() -> None:
    weights = random_weights()
    ws = random_ws(weights, 4)
    floats, images = (run(synthesis_model(weights, "const", o), ws=ws) for o in ("float", "uint8"))  # type: ignore[arg-type]
    exact = np.clip(floats.transpose(0, 2, 3, 1).astype(np.float64) * 127.5 + 128, 0, 255)
    assert images.dtype == np.uint8
    differs = np.floor(exact) != images
    assert np.abs(exact[differs] - np.rint(exact[differs])).max(initial=0) < 1e-4, (
        "only values next to a whole number may differ"
    )


def test_each_convolution_of_the_canonical_file_is_one_operator_node(tmp_path: Path) -> None:
    weights = random_weights()
    model = synthesis_model(weights)
    operators = [node for node in model.graph.node if node.domain == "stylert"]
    convs = [spec.name for spec in conv_layers(weights.config)]
    assert [node.name for node in operators if node.op_type == "ModulatedConv2d"] == convs
    assert sum(node.op_type == "Upfirdn2d" for node in operators) == len(weights.config.block_resolutions) - 1
    for node in operators:
        assert any(a.name == "plugin_namespace" and a.s == b"stylert" for a in node.attribute)
    assert {function.name for function in model.functions} == {"ModulatedConv2d", "Upfirdn2d"}

    (tmp_path / "canonical.onnx").write_bytes(model.SerializeToString())
    lowered = onnx.load(lower(tmp_path / "canonical.onnx", tmp_path / "lowered.onnx"))
    assert {node.domain for node in lowered.graph.node} == {""}
    assert not lowered.functions
    assert not any(node.op_type == "If" for node in lowered.graph.node)


def test_every_layer_of_the_canonical_file_has_a_shape() -> None:
    weights = random_weights(resolution=32)
    model = onnx.shape_inference.infer_shapes(synthesis_model(weights), check_type=True, strict_mode=True)
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.value_info}
    for spec in weights.config.layers():
        assert shapes[spec.name] == ["N", spec.out_channels, spec.resolution, spec.resolution]
    computed = {name for node in model.graph.node for name in node.output} - {"image"}
    assert computed <= set(shapes)


def test_a_resampling_filter_without_four_taps_is_refused() -> None:
    cfg = GeneratorConfig(8, z_dim=4, w_dim=4, channel_base=64, resample_filter=(1, 1))
    with pytest.raises(CheckpointError, match="4-tap"):
        synthesis_model(GeneratorWeights(cfg, {}, {}))
