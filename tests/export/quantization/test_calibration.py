"""INT8: the scale migration is exact, the scales are good, and the convolutions really run in 8 bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from stylert.export.defaults import backend_plan
from stylert.export.graph import GraphBuilder
from stylert.export.plan import Form, LayerPlan, Migration, NetworkPlan, Step
from stylert.export.quantization.calibration import (
    MIN_CHANNELS,
    MIN_RESOLUTION,
    MIN_RGB_RESOLUTION,
    calibrate,
    int8_layers,
    int8_plan,
    int8_rgbs,
)
from stylert.export.quantization.qdq import EightBit, Factor
from stylert.export.synthesis import NoiseInput, synthesis_model
from stylert.models.checkpoint import GeneratorWeights
from stylert.runtime.lowering import lower
from tests.conftest import random_arrays, small_config
from tests.draws import fresh


def random_weights(**changes: object) -> GeneratorWeights:
    cfg = small_config(**changes)
    return GeneratorWeights(cfg, random_arrays(cfg, fresh()), {})


def run(model: onnx.ModelProto, ws: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(model.SerializeToString()).run(None, {"ws": ws})[0]


@pytest.mark.parametrize("form", ["operator", "transposed", "phases", "polyphase"])
def test_scale_migration_is_exact(rng: np.random.Generator, form: Form) -> None:
    weights = random_weights()
    plans = {
        s.name: LayerPlan(form, Migration(rng.uniform(0.1, 10, s.in_channels), rng.uniform(0.1, 10, s.out_channels)))
        for s in int8_layers(weights.config)
    }
    ws = rng.standard_normal((2, 6, 20)).astype(np.float32)
    exact = run(synthesis_model(weights, "const", "float"), ws)
    migrated = run(synthesis_model(weights, "const", "float", NetworkPlan(plans)), ws)
    assert np.abs(migrated - exact).max() < 1e-5 * np.abs(exact).max()


def test_eligible_layers_are_quantised_and_no_others() -> None:
    weights = random_weights(resolution=32)
    names = {s.name for s in int8_layers(weights.config)}
    assert names == {
        s.name
        for s in weights.config.layers()
        if s.kind == "conv"
        and s.resolution >= MIN_RESOLUTION
        and s.in_channels >= MIN_CHANNELS
        and s.out_channels >= MIN_CHANNELS
    }
    assert names
    plans = calibrate(weights, [np.random.standard_normal((1, 8, 20)).astype(np.float32)])
    assert set(plans) == names
    assert [s.name for s in int8_rgbs(small_config(resolution=256))] == ["b128.torgb", "b256.torgb"]


@pytest.mark.parametrize("min_scaled", [np.inf, 32, 0])
def test_onnx_runtime_runs_every_quantised_layer_in_8_bits(tmp_path: Path, min_scaled: float) -> None:
    weights = random_weights(resolution=32)
    plans = calibrate(weights, [np.random.standard_normal((1, 8, 20)).astype(np.float32) for _ in range(4)])
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(
        synthesis_model(weights, plan=int8_plan(weights.config, plans, min_scaled=min_scaled)).SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
    )
    optimised = onnx.load(tmp_path / "optimised.onnx")
    integer = [n for n in optimised.graph.node if n.op_type == "QLinearConv"]
    assert len(integer) == len(int8_layers(weights.config))
    whole = {n.name: n for n in optimised.graph.node}
    assert ("b32.conv1.demodulated" in whole) == ("b32.conv1.modulated" in whole) == (min_scaled > 32)


@pytest.mark.parametrize("form", ["phases", "transposed", "polyphase"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("outputs", ["all", "up", "none"])
@pytest.mark.parametrize("noise", ["const", "none"])
def test_scaled_steps_round_the_same_numbers(
    rng: np.random.Generator, form: Form, symmetric: bool, outputs: Literal["all", "up", "none"], noise: NoiseInput
) -> None:
    """What differs is a product in float32 before a rounding, which only values near a tie can see."""
    weights = random_weights(resolution=32)
    calibration = calibrate(weights, [rng.standard_normal((1, 8, 20)).astype(np.float32) for _ in range(4)])
    ws = rng.standard_normal((3, 8, 20)).astype(np.float32)
    exact = run(synthesis_model(weights, noise, "float"), ws)

    def image(min_scaled: float, live_bias: bool = False) -> np.ndarray:
        plan = int8_plan(weights.config, calibration, form, symmetric, outputs, max_reach=16, min_scaled=min_scaled)
        return run(synthesis_model(weights, noise, "float", replace(plan, live_bias=live_bias)), ws)

    plain = image(np.inf)
    rounding = np.square(plain - exact).mean()
    assert rounding > 0
    for scaled in (image(0), image(32), image(0, live_bias=True)):
        assert np.square(scaled - plain).mean() < 0.2 * rounding


def test_scaled_steps_take_any_style(rng: np.random.Generator) -> None:
    """Negative styles turn a channel's sign; one of zero, whose step is infinite, empties it."""
    x, factor = rng.standard_normal((2, 5, 4, 4)).astype(np.float32), rng.standard_normal((2, 5)).astype(np.float32)
    factor[0, 2], factor[1, 4], x[0, 2, 0, 0] = 0, 1e-42, 0
    g = GraphBuilder("rounding")
    names = [g.input("x", ["N", 5, 4, 4]), g.input("factor", ["N", 5])]
    step = Step(0.02, 100, symmetric=False)
    eight, product = EightBit(g, np.float32), Factor("factor", 5, 4)
    q = eight.quantize(names[0], step, "in", product)
    g.node("Cast", [q], "q", to=onnx.TensorProto.FLOAT)
    g.output("q", ["N", 5, 4, 4])
    g.output(eight.dequantize(q, step, "back", product), ["N", 5, 4, 4])
    feeds = {"x": x, "factor": factor}
    expected = np.clip(np.rint(x.astype(np.float64) * factor[:, :, None, None] / 0.02) + 100, 0, 255)
    for found, back in (
        ort.InferenceSession(g.model().SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds),
        ReferenceEvaluator(g.model()).run(None, feeds),
    ):
        assert np.abs(found - expected).max() <= 1  # a tie may fall to either side
        assert (found != expected).mean() < 0.02
        np.testing.assert_allclose(back, (found - 100) * 0.02 * factor[:, :, None, None], rtol=1e-5, atol=1e-30)


def test_a_network_with_no_eligible_layer_stays_float() -> None:
    weights = random_weights(resolution=8, channel_max=8, channel_base=64)
    plans = calibrate(weights, [np.zeros((1, 4, 20), np.float32)])
    assert plans == {}


@pytest.mark.parametrize("resolution", [16, 64])
def test_int8_images_stay_near_the_float_ones_on_unseen_latents(resolution: int) -> None:
    weights = random_weights(resolution=resolution, channel_base=1024)
    n = weights.config.num_ws
    plans = calibrate(weights, [np.random.standard_normal((1, n, 20)).astype(np.float32) for _ in range(16)])
    ws = np.random.standard_normal((16, n, 20)).astype(np.float32)
    exact = run(synthesis_model(weights, "const", "float"), ws)
    error = run(synthesis_model(weights, "const", "float", int8_plan(weights.config, plans)), ws) - exact
    # Random networks reach 24 to 42 dB; a scale or factor that is wrong in one layer leaves less than 10.
    assert 20 * np.log10(np.abs(exact).max() / np.sqrt(np.square(error).mean())) > 18


@pytest.mark.parametrize("form", ["transposed", "phases", "polyphase"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_samples_own_range_is_that_of_what_its_convolution_reads(
    rng: np.random.Generator, form: Form, symmetric: bool
) -> None:
    """For ws far outside the calibration too: nothing is clipped, and the range is used to its end."""
    weights = random_weights(resolution=32)
    calibration = calibrate(weights, [rng.standard_normal((1, 8, 20)).astype(np.float32) for _ in range(3)])
    plan = int8_plan(weights.config, calibration, form, symmetric=symmetric)
    names = list(calibration)
    session = ort.InferenceSession(synthesis_model(weights, "const", "float", plan, observe=names).SerializeToString())
    ws = (rng.standard_normal((3, 8, 20)) * np.array([1, 10, 0.1])[:, None, None]).astype(np.float32)
    for name, x in zip(names, session.run([f"{n}.modulated" for n in names], {"ws": ws}), strict=True):
        depth = 1.0 if symmetric else calibration[name].depth
        reach = np.maximum(x.max((1, 2, 3)), -x.min((1, 2, 3)) / depth)
        assert reach == pytest.approx(1, rel=1e-5), name
        step = calibration[name].steps(symmetric, outputs=False, by_reach=True).input
        assert step.scale * (127 if symmetric else 255) == pytest.approx(1 if symmetric else 1 + depth)


def test_images_far_outside_the_calibration_are_as_good(rng: np.random.Generator) -> None:
    """A fixed range clips them: mixed styles, psi 1.5, ten times as large."""
    weights = random_weights(resolution=32, channel_base=1024)
    calibration = calibrate(weights, [0.3 * rng.standard_normal((1, 8, 20)).astype(np.float32) for _ in range(8)])
    ws = (rng.standard_normal((12, 8, 20)) * np.repeat([1.5, 3, 10], 4)[:, None, None]).astype(np.float32)
    exact = run(synthesis_model(weights, "const", "float"), ws)

    def error(by_reach: bool) -> np.ndarray:
        plan = int8_plan(weights.config, calibration, outputs="none", max_reach=64 if by_reach else 0)
        return np.square(run(synthesis_model(weights, "const", "float", plan), ws) - exact)

    own, fixed = error(True), error(False)
    assert np.isfinite(own).all()
    assert 10 * np.log10(np.square(exact).mean() / own.mean()) > 10
    assert own.mean() < 4 * fixed.mean()


def test_a_batch_does_not_change_an_image(rng: np.random.Generator) -> None:
    """Ranges are of each sample, not of whoever shares its batch: nothing may depend on neighbours."""
    weights = random_weights(resolution=16)
    calibration = calibrate(weights, [rng.standard_normal((1, 6, 20)).astype(np.float32) for _ in range(4)])
    model = synthesis_model(weights, "const", "uint8", int8_plan(weights.config, calibration))
    ws = (rng.standard_normal((4, 6, 20)) * np.array([1, 5, 0.2, 2])[:, None, None]).astype(np.float32)
    together, alone = run(model, ws), np.concatenate([run(model, ws[i : i + 1]) for i in range(4)])
    # Sums in another order round to another level here and there, which moves a value by little.
    assert np.abs(together.astype(int) - alone).mean() < 0.5


def rgb_only(plan: NetworkPlan) -> NetworkPlan:
    """With 8 bits in no other layer."""
    layers = {n: p if p.form == "conv" else replace(p, eight_bit=None) for n, p in plan.layers.items()}
    return replace(plan, layers=layers)


def test_what_8_bits_take_from_torgb_is_the_same_share_of_an_image_whatever_the_size_of_its_style(
    rng: np.random.Generator,
) -> None:
    """What it reads has one range for every sample: its style is brought to one size first, and the size comes back behind."""
    weights = random_weights(resolution=MIN_RGB_RESOLUTION)
    cfg, last = weights.config, weights.config.layers()[-1].name
    weights.arrays[f"synthesis.{last}.affine.bias"][:] = 0  # so that a latent's size is the style's
    seen = rng.standard_normal((8, cfg.num_ws, 20)).astype(np.float32)
    plan = rgb_only(int8_plan(cfg, calibrate(weights, [w[None] for w in seen]), symmetric=True, rgb="conv"))
    assert [n for n, p in plan.layers.items() if p.eight_bit is not None] == [last]
    floating = replace(plan, layers={n: replace(p, eight_bit=None) for n, p in plan.layers.items()})
    networks = [synthesis_model(weights, "const", "float", p) for p in (None, plan, floating)]

    size = (10 ** rng.uniform(-1, 1, 8)).astype(np.float32)
    sized = seen.copy()
    sized[:, -1] *= size[:, None]  # torgb's latent alone
    errors = []
    for ws in (seen, sized):
        exact, narrow, wide = (run(network, ws) for network in networks)
        assert np.abs(wide - exact).max() < 1e-5 * np.abs(exact).max()
        errors.append(narrow - exact)
    assert 0 < np.square(errors[0]).mean() < 1e-3 * np.square(exact).mean()
    share = errors[1] / size[:, None, None, None]
    # But for a value here and there that lies between two steps.
    assert np.abs(share - errors[0]).mean() < 0.01 * np.abs(errors[0]).mean()


def test_openvino_reads_8_bits_into_torgb(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    weights = random_weights(resolution=MIN_RGB_RESOLUTION)
    cfg = weights.config
    calibration = calibrate(weights, [np.random.standard_normal((1, cfg.num_ws, 20)).astype(np.float32) for _ in range(2)])
    plan = backend_plan(weights, "int8", "openvino", calibration)
    assert plan is not None
    source = tmp_path / "source.onnx"
    source.write_bytes(synthesis_model(weights, plan=plan).SerializeToString())
    compiled = openvino.compile_model(lower(source, tmp_path / "plain.onnx", 1), "CPU")
    kinds = {
        op.get_friendly_name(): op.get_rt_info()["runtimePrecision"] for op in compiled.get_runtime_model().get_ordered_ops()
    }
    last = cfg.layers()[-1].name
    assert kinds[f"{last}.conv"] in ("i8", "u8")
    assert kinds["b64.torgb.conv"] not in ("i8", "u8")
