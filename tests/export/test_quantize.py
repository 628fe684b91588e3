"""INT8: the scale migration is exact, the scales are good, and the convolutions really run in 8 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylert.export.plan import Form, LayerPlan, Migration, NetworkPlan
from stylert.export.quantize import MIN_CHANNELS, MIN_RESOLUTION, _Histogram, calibrate, int8_layers
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
    assert {n for n, p in plans.layers.items() if p.int8} == names


def test_onnx_runtime_runs_every_quantised_layer_in_8_bits(tmp_path: Path) -> None:
    weights = random_weights(resolution=32)
    plans = calibrate(weights, [np.random.standard_normal((1, 8, 20)).astype(np.float32) for _ in range(4)])
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(synthesis_model(weights, plan=plans).SerializeToString(), options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(tmp_path / "optimised.onnx")
    integer = [n for n in optimised.graph.node if n.op_type == "QLinearConv"]
    assert len(integer) == len(int8_layers(weights.config))


def test_a_network_with_no_eligible_layer_stays_float() -> None:
    weights = random_weights(resolution=8, channel_max=8, channel_base=64)
    plans = calibrate(weights, [np.zeros((1, 4, 20), np.float32)])
    assert all(p.int8 is None for p in plans.layers.values())


@pytest.mark.parametrize("resolution", [16, 64])
def test_int8_images_stay_near_the_float_ones_on_unseen_latents(resolution: int) -> None:
    weights = random_weights(resolution=resolution, channel_base=1024)
    n = weights.config.num_ws
    plans = calibrate(weights, [np.random.standard_normal((1, n, 20)).astype(np.float32) for _ in range(16)])
    ws = np.random.standard_normal((16, n, 20)).astype(np.float32)
    exact = run(synthesis_model(weights, "const", "float"), ws)
    error = run(synthesis_model(weights, "const", "float", plans), ws) - exact
    # Random networks reach 24 to 42 dB; a scale or factor that is wrong in one layer leaves less than 10.
    assert 20 * np.log10(np.abs(exact).max() / np.sqrt(np.square(error).mean())) > 18


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["normal", "laplace", "uniform", "spike"]))
def test_the_chosen_scale_beats_scaling_to_the_peak_and_is_near_the_best(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    x = {
        "normal": rng.standard_normal(20_000),
        "laplace": rng.laplace(size=20_000),
        "uniform": rng.uniform(-1, 1, 20_000),
        "spike": np.concatenate([rng.standard_normal(19_990), np.full(10, 60.0)]),
    }[kind].astype(np.float32)
    histogram = _Histogram()
    for part in np.split(x, 4):  # the range is not known ahead
        histogram.add(part)

    def error(scale: float) -> float:
        return float(np.square(np.clip(np.rint(x / scale), -127, 127) * scale - x).mean())

    chosen = error(histogram.best_scale())
    assert chosen <= error(np.abs(x).max() / 127) * 1.001
    assert chosen <= min(error(s) for s in np.linspace(0.1, 1, 37) * np.abs(x).max() / 127) * 1.05
