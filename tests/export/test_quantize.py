"""INT8: the scale migration is exact, the scales are good, and the convolutions really run in 8 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylert.export.plan import Form, LayerPlan, Migration, NetworkPlan, Step
from stylert.export.quantize import MIN_CHANNELS, MIN_RESOLUTION, Histogram, calibrate, int8_layers, int8_plan
from stylert.export.synthesis import synthesis_model
from stylert.train.checkpoint import GeneratorWeights
from tests.conftest import random_arrays, small_config


def random_weights(**changes: object) -> GeneratorWeights:
    cfg = small_config(**changes)
    return GeneratorWeights(cfg, random_arrays(cfg, np.random.default_rng()), {})


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


def test_onnx_runtime_runs_every_quantised_layer_in_8_bits(tmp_path: Path) -> None:
    weights = random_weights(resolution=32)
    plans = calibrate(weights, [np.random.standard_normal((1, 8, 20)).astype(np.float32) for _ in range(4)])
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(
        synthesis_model(weights, plan=int8_plan(weights.config, plans)).SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
    )
    optimised = onnx.load(tmp_path / "optimised.onnx")
    integer = [n for n in optimised.graph.node if n.op_type == "QLinearConv"]
    assert len(integer) == len(int8_layers(weights.config))


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


def quantised(x: np.ndarray, step: Step) -> np.ndarray:
    """`x` through the ONNX operators' definition."""
    low, high = (-128, 127) if step.symmetric else (0, 255)
    return (np.clip(np.rint(x / step.scale) + step.zero_point, low, high) - step.zero_point) * step.scale


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["normal", "laplace", "uniform", "spike", "lrelu", "positive"]))
def test_the_chosen_steps_are_near_the_best_and_an_asymmetric_one_is_no_worse(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal(20_000)
    x = {
        "normal": normal,
        "laplace": rng.laplace(size=20_000),
        "uniform": rng.uniform(-1, 1, 20_000),
        "spike": np.concatenate([normal[10:], np.full(10, 60.0)]),
        "lrelu": np.where(normal > 0, normal, 0.2 * normal),
        "positive": np.abs(normal),
    }[kind].astype(np.float32)
    histogram = Histogram()
    histogram.add(x[None, :100] / 8)  # the range is not known ahead
    histogram.samples.clear()
    histogram.add(x[None])

    def error(step: Step) -> float:
        return float(np.square(quantised(x, step) - x).mean())

    symmetric, asymmetric = (error(histogram.best_step(s)) for s in (True, False))
    peak = float(np.abs(x).max())
    assert symmetric <= min(error(Step(s * peak / 127)) for s in np.linspace(0.1, 1, 37)) * 1.05
    assert asymmetric <= symmetric * 1.02
    if kind in ("lrelu", "positive"):
        assert asymmetric < 0.6 * symmetric, "one side needs less range"
    histogram.add(x[None] * 1e-3)  # so small that no candidate helps it: nothing changes
    assert error(histogram.best_step(True)) <= symmetric * 1.05


def test_a_tensor_of_zeros_has_a_step() -> None:
    histogram = Histogram()
    histogram.add(np.zeros((2, 3, 4, 4), np.float32))
    assert histogram.best_step(True).scale > 0
    assert histogram.best_step(False).scale > 0
