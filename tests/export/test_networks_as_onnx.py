"""The exported networks compute what the PyTorch networks compute, in every form, for any batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import onnx.inliner
import onnx.shape_inference
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from stylert.export.mapping import mapping_model
from stylert.export.phases import phase_weights, polyphase_weights
from stylert.export.plan import (
    Form,
    Fp8Scale,
    Int8Steps,
    LayerPlan,
    Migration,
    NetworkPlan,
    RgbForm,
    Step,
    half_plan,
    plain_plan,
)
from stylert.export.synthesis import NoiseInput, synthesis_model
from stylert.models.checkpoint import GeneratorWeights
from stylert.models.stylegan2.config import GeneratorConfig
from stylert.models.stylegan2.networks import Generator
from stylert.runtime.lowering import lower
from tests.conftest import random_arrays, small_config
from tests.draws import fresh


def network(**changes: object) -> tuple[GeneratorWeights, Generator]:
    """Random weights as arrays, and as a float64 PyTorch generator."""
    cfg = small_config(**changes)
    arrays = random_arrays(cfg, fresh())
    generator = Generator(cfg)
    generator.load_state_dict({k: torch.from_numpy(v) for k, v in arrays.items()})
    return GeneratorWeights(cfg, arrays, {}), generator.double().requires_grad_(False)


def run(model: onnx.ModelProto, **inputs: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def synthesize64(generator: Generator, ws: np.ndarray, noise_mode: str) -> np.ndarray:
    """The synthesis in float64: the network casts ws to float32 at its door, so its blocks are called directly."""
    x = img = None
    w = torch.from_numpy(ws).double()
    for res in generator.cfg.block_resolutions:
        x, img = double_block(getattr(generator.synthesis, f"b{res}"), x, img, w, noise_mode)
    return img.numpy()


def double_block(block, x, img, ws, noise_mode):  # type: ignore[no-untyped-def]
    from stylert.plugins.reference.upfirdn2d import upsample2d

    x = block.const.unsqueeze(0).expand(len(ws), -1, -1, -1) if x is None else x
    img = None if img is None else upsample2d(img, block.resample_filter)
    for spec in block.specs:
        layer = getattr(block, spec.name.split(".")[1])
        if spec.kind == "torgb":
            y = layer(x, ws[:, spec.ws_index])
            img = y if img is None else img + y
        else:
            x = layer(x, ws[:, spec.ws_index], noise_mode)
    return x, img


def close(got: np.ndarray, expected: np.ndarray, relative: float) -> None:
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= relative * np.abs(expected).max()


@settings(max_examples=12, deadline=None)
@given(
    c_dim=st.sampled_from([0, 1, 4]),
    layers=st.integers(1, 8),
    n=st.integers(1, 5),
    psi=st.floats(-1, 2),
    cutoff=st.integers(0, 6),
)
def test_mapping_equals_pytorch(c_dim: int, layers: int, n: int, psi: float, cutoff: int) -> None:
    weights, generator = network(c_dim=c_dim, mapping_layers=layers)
    z = np.random.standard_normal((n, 24)).astype(np.float32)
    c = np.random.standard_normal((n, c_dim)).astype(np.float32) if c_dim else None
    factors = np.ones((n, 6), np.float32)
    factors[:, :cutoff] = psi
    got = run(mapping_model(weights), z=z, psi=factors, **({"c": c} if c_dim else {}))
    expected = generator.float().mapping(torch.from_numpy(z), None if c is None else torch.from_numpy(c), psi, cutoff)
    close(got, expected.numpy(), 1e-4)


@pytest.mark.parametrize("live_bias", [False, True])
@pytest.mark.parametrize("clamp", [None, 0.9])
@pytest.mark.parametrize("noise", ["const", "none"])
@pytest.mark.parametrize("rgb", get_args(RgbForm))
@pytest.mark.parametrize("form", ["operator", "transposed", "phases", "polyphase"])
def test_every_form_equals_the_float64_network(
    form: Form, noise: NoiseInput, rgb: RgbForm, clamp: float | None, live_bias: bool
) -> None:
    weights, generator = network(conv_clamp=clamp, resolution=32)
    ws = np.random.standard_normal((3, 8, 20)).astype(np.float32)
    plan = replace(plain_plan(weights.config, form, rgb), live_bias=live_bias)
    model = synthesis_model(weights, noise, "float", plan)
    expected = synthesize64(generator, ws, noise)
    close(run(model, ws=ws), expected, 1e-5)
    for i in range(3):
        close(run(model, ws=ws[i : i + 1]), expected[i : i + 1], 1e-5)


@pytest.mark.parametrize("half", [False, True])
def test_each_torgb_may_have_a_form_and_scales_of_its_own(half: bool, rng: np.random.Generator) -> None:
    """Also brought to unit mean square of what it modulates, with the norm multiplied back."""
    weights, generator = network(resolution=32, conv_clamp=0.9)
    plan = half_plan(weights, "phases") if half else plain_plan(weights.config, "phases")
    rgbs = [s for s in weights.config.layers() if s.kind == "torgb"]
    for _ in range(6):
        layers = {}
        for spec in rgbs:
            i = spec.in_channels
            power = rng.uniform(0.1, 10, i) if rng.random() < 0.5 else None
            migration = Migration(rng.uniform(0.1, 10, i), np.ones(3), power) if rng.random() < 0.7 else None
            layers[spec.name] = LayerPlan(rng.choice(get_args(RgbForm)), migration)
        model = synthesis_model(weights, "const", "float", replace(plan, layers={**plan.layers, **layers}))
        ws = (np.array([1, 30])[:, None, None] * rng.standard_normal((2, 8, 20))).astype(np.float32)
        exact = synthesize64(generator, ws, "const")
        if half:
            error = run(model, ws=ws) - exact
            assert 20 * np.log10(np.abs(exact).max() / np.sqrt(np.square(error).mean())) > 45
        else:
            close(run(model, ws=ws), exact, 1e-5)


@pytest.mark.parametrize("rgb", get_args(RgbForm))
@pytest.mark.parametrize("form", ["operator", "transposed", "phases", "polyphase"])
@pytest.mark.parametrize("architecture", ["skip", "resnet"])
def test_float16_stays_near_pytorch(form: Form, architecture: str, rgb: RgbForm) -> None:
    weights, generator = network(resolution=32, architecture=architecture)
    ws = np.random.standard_normal((3, 8, 20)).astype(np.float32)
    model = synthesis_model(weights, "const", "float", half_plan(weights, form, rgb))
    exact = generator.float().synthesis(torch.from_numpy(ws), "const").numpy()
    error = run(model, ws=ws) - exact
    assert 20 * np.log10(np.abs(exact).max() / np.sqrt(np.square(error).mean())) > 50


@pytest.mark.parametrize("size", [1e-3, 1.0, 10.0, 1e4])
def test_float16_is_finite_and_right_for_any_size_of_ws_and_weights(size: float, rng: np.random.Generator) -> None:
    weights, generator = network(resolution=32)
    for name, value in weights.arrays.items():
        if name.endswith(("conv0.weight", "conv1.weight")):  # demodulation hides their scale, float16 would not
            value *= 10.0 ** rng.uniform(-3, 3, (len(value), 1, 1, 1))
    generator.load_state_dict({k: torch.from_numpy(v) for k, v in weights.arrays.items()})
    ws = (size * rng.standard_normal((2, 8, 20))).astype(np.float32)
    exact = synthesize64(generator, ws, "const")
    image = run(synthesis_model(weights, "const", "float", half_plan(weights)), ws=ws)
    assert np.isfinite(image).all()
    assert 20 * np.log10(np.abs(exact).max() / np.sqrt(np.square(image - exact).mean())) > 45


def test_float16_convolutions_are_float16_and_the_image_is_not() -> None:
    weights, _ = network(resolution=16)
    model = onnx.shape_inference.infer_shapes(
        synthesis_model(weights, "const", "float", half_plan(weights, "phases")), check_type=True, strict_mode=True
    )
    types = {v.name: v.type.tensor_type.elem_type for v in [*model.graph.value_info, *model.graph.output]}
    types |= {t.name: t.data_type for t in model.graph.initializer}
    for node in model.graph.node:
        if node.name in ("affine", "energies") or node.name.endswith(".upsampled"):
            assert types[node.output[0]] == onnx.TensorProto.FLOAT, node.name
        elif node.op_type in ("Conv", "ConvTranspose"):
            assert {types[n] for n in [*node.input, *node.output]} == {onnx.TensorProto.FLOAT16}, node.name


def test_the_onnx_reference_evaluator_agrees() -> None:
    weights, generator = network(resolution=8)
    ws = np.random.standard_normal((2, 4, 20)).astype(np.float32)
    model = onnx.inliner.inline_local_functions(synthesis_model(weights, "const", "float"))
    close(ReferenceEvaluator(model).run(None, {"ws": ws})[0], synthesize64(generator, ws, "const"), 1e-5)


def test_noise_inputs_take_the_place_of_the_constants() -> None:
    weights, generator = network()
    ws = np.random.standard_normal((2, 6, 20)).astype(np.float32)
    const = {
        f"noise_{s.resolution}_{s.name.split('.')[1]}": np.tile(weights.arrays[f"synthesis.{s.name}.noise_const"], (2, 1, 1, 1))
        for s in weights.config.layers()
        if s.kind == "conv"
    }
    forms: tuple[Form, ...] = ("operator", "phases")
    for form in forms:
        plans = plain_plan(weights.config, form)
        close(
            run(synthesis_model(weights, "input", "float", plans), ws=ws, **const), synthesize64(generator, ws, "const"), 1e-5
        )


def test_bytes_are_the_official_conversion_of_the_floats() -> None:
    weights, _ = network()
    ws = np.random.standard_normal((4, 6, 20)).astype(np.float32)
    floats, images = (run(synthesis_model(weights, "const", o), ws=ws) for o in ("float", "uint8"))  # type: ignore[arg-type]
    exact = np.clip(floats.transpose(0, 2, 3, 1).astype(np.float64) * 127.5 + 128, 0, 255)
    assert images.dtype == np.uint8
    differs = np.floor(exact) != images
    assert np.abs(exact[differs] - np.rint(exact[differs])).max(initial=0) < 1e-4, "only values at a step's edge may differ"


def test_phase_weights_are_the_transposed_convolution() -> None:
    weight = np.random.standard_normal((3, 2, 3, 3))
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64)
    phases = torch.nn.functional.conv2d(x, torch.from_numpy(phase_weights(weight)), padding=1)
    shuffled = phases.reshape(1, 2, 2, 3, 6, 5).permute(0, 3, 4, 1, 5, 2).reshape(1, 3, 12, 10)
    full = torch.nn.functional.conv_transpose2d(x, torch.from_numpy(weight).transpose(0, 1), stride=2)
    torch.testing.assert_close(shuffled[:, :, :-1, :-1], full)
    assert shuffled[:, :, -1].abs().max() == 0
    assert shuffled[:, :, :, -1].abs().max() == 0


def test_polyphase_weights_are_the_transposed_convolution_and_the_filter() -> None:
    weight, taps = np.random.standard_normal((3, 2, 3, 3)), np.random.standard_normal((4, 4))
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64)
    phases = torch.nn.functional.conv2d(x, torch.from_numpy(polyphase_weights(weight, taps)), padding=1)
    shuffled = phases.reshape(1, 2, 2, 3, 5, 4).permute(0, 3, 4, 1, 5, 2).reshape(1, 3, 10, 8)
    full = torch.nn.functional.conv_transpose2d(x, torch.from_numpy(weight).transpose(0, 1), stride=2)
    kernel = torch.from_numpy(np.tile(taps, (3, 1, 1, 1)))
    torch.testing.assert_close(shuffled, torch.nn.functional.conv2d(full, kernel, padding=1, groups=3))


def test_each_convolution_of_the_canonical_file_is_one_operator_node(tmp_path: Path) -> None:
    weights, _ = network()
    model = synthesis_model(weights)
    nodes = [n for n in model.graph.node if n.domain == "stylert"]
    convs = [s.name for s in weights.config.layers() if s.kind == "conv"]
    assert [n.name for n in nodes if n.op_type == "ModulatedConv2d"] == convs
    assert sum(n.op_type == "Upfirdn2d" for n in nodes) == len(weights.config.block_resolutions) - 1
    assert all(any(a.name == "plugin_namespace" and a.s == b"stylert" for a in n.attribute) for n in nodes)
    assert {f.name for f in model.functions} == {"ModulatedConv2d", "Upfirdn2d"}

    (tmp_path / "canonical.onnx").write_bytes(model.SerializeToString())
    plain = onnx.load(lower(tmp_path / "canonical.onnx", tmp_path / "plain.onnx"))
    assert {n.domain for n in plain.graph.node} == {""}
    assert not plain.functions
    assert not any(n.op_type == "If" for n in plain.graph.node)


def test_every_layer_of_the_canonical_file_has_a_shape() -> None:
    weights, _ = network(resolution=32)
    model = onnx.shape_inference.infer_shapes(synthesis_model(weights), check_type=True, strict_mode=True)
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.value_info}
    for s in weights.config.layers():
        assert shapes[s.name] == ["N", s.out_channels, s.resolution, s.resolution]
    computed = {name for n in model.graph.node for name in n.output} - {"image"}
    assert computed <= set(shapes)


def test_a_filter_that_the_operators_do_not_take_is_refused() -> None:
    from stylert.core.errors import CheckpointError

    cfg = GeneratorConfig(8, z_dim=4, w_dim=4, channel_base=64, resample_filter=(1, 1))
    with pytest.raises(CheckpointError, match="4-tap"):
        synthesis_model(GeneratorWeights(cfg, {}, {}))


def test_the_fir_behind_an_8_bit_transposed_convolution_loses_nothing_of_its_taps() -> None:
    weights, _ = network(resolution=16)
    steps = Int8Steps(Step(0.05), Step(0.05))
    plan = NetworkPlan({"b16.conv0": LayerPlan("transposed", eight_bit=steps)})
    model = synthesis_model(weights, "const", "float", plan)
    held = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name.startswith("b16.conv0.fir_")}
    taps = held["b16.conv0.fir_q"] * held["b16.conv0.fir_scale"][:, None, None, None]
    exact = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 16
    np.testing.assert_allclose(taps, np.broadcast_to(exact, taps.shape), rtol=1e-6)


@pytest.mark.parametrize("form", ["phases", "polyphase"])
def test_phases_become_the_same_pixels_in_8_bits_as_in_float(form: Form) -> None:
    """One layer's rounding to 8 bits is a small part of the image; pixels at wrong places are all of it."""
    weights, generator = network(resolution=16)
    ws = np.random.standard_normal((3, 6, 20)).astype(np.float32)
    plain = synthesis_model(weights, "const", "float", plain_plan(weights.config, form), observe=["b16.conv0"])
    session = ort.InferenceSession(plain.SerializeToString(), providers=["CPUExecutionProvider"])
    sides = session.run(["b16.conv0.modulated", "b16.conv0.conv"], {"ws": ws})
    steps = Int8Steps(*(Step(float(np.abs(side).max()) / 127) for side in sides))
    layers = {**plain_plan(weights.config, form).layers, "b16.conv0": LayerPlan(form, eight_bit=steps)}
    got = run(synthesis_model(weights, "const", "float", NetworkPlan(layers)), ws=ws)
    expected = synthesize64(generator, ws, "const")
    error = np.sqrt(np.square(got - expected).mean() / np.square(expected - expected.mean((2, 3), keepdims=True)).mean())
    assert error < 0.3


@pytest.mark.parametrize(("name", "form"), [("b16.conv1", "phases"), ("b16.conv0", "transposed")])
def test_an_fp8_convolution_multiplies_e4m3_numbers_and_nothing_else_changes(name: str, form: Form) -> None:
    weights, _ = network(resolution=16)
    scale = float(fresh().uniform(0.01, 0.1))
    ws = np.random.standard_normal((2, 6, 20)).astype(np.float32)
    plain = plain_plan(weights.config, form)
    plan = NetworkPlan({**plain.layers, name: LayerPlan(form, eight_bit=Fp8Scale(scale))})
    models = [synthesis_model(weights, "const", "float", p, observe=[name]) for p in (plain, plan)]
    sessions = [ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]) for m in models]
    (x, conv), (same, rounded) = (s.run([f"{name}.modulated", f"{name}.conv"], {"ws": ws}) for s in sessions)
    np.testing.assert_array_equal(same, x)

    def e4m3(values: np.ndarray, step: np.ndarray | float) -> np.ndarray:
        """Four significant bits, subnormal below 2^-6, the end at 448: from the format's definition."""
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
    # Where a value lies between two E4M3 numbers, float32 may round it to the other one: a few in a million.
    off = np.abs(rounded - expected) > 1e-4 * np.abs(expected).max()
    assert off.mean() < 0.02
    assert np.abs(rounded - conv).max() > 1e-3 * np.abs(conv).max()  # and rounded they are
