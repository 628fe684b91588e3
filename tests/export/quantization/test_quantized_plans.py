"""INT8 networks: their convolutions run in 8 bits, and their images stay near the float ones, whatever the latent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from stylert.export.default_plans import backend_plan
from stylert.export.network_plan import ConvForm, NetworkPlan
from stylert.export.quantization.calibration import MIN_RGB_RESOLUTION, Calibration, calibrate, int8_conv_layers
from stylert.export.quantization.quantized_plans import float16_fp8_plan, float16_int8_plan, int8_plan
from stylert.export.synthesis import NoiseInput, synthesis_model
from stylert.models.checkpoint import GeneratorWeights
from stylert.runtime.lowering import lower
from tests.export.networks import peak_snr_db, random_weights, random_ws, run


@pytest.mark.parametrize("min_fold_modulation", [np.inf, 32, 0])
def test_onnx_runtime_runs_every_quantised_layer_in_8_bits(tmp_path: Path, min_fold_modulation: float) -> None:
    weights = random_weights(resolution=32)
    calibration = calibrate(weights, list(random_ws(weights, 4)[:, None]))
    plan = int8_plan(weights.config, calibration, min_fold_modulation=min_fold_modulation)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    model = synthesis_model(weights, plan=plan)
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(tmp_path / "optimised.onnx")
    integer_convolutions = [node for node in optimised.graph.node if node.op_type == "QLinearConv"]
    assert len(integer_convolutions) == len(int8_conv_layers(weights.config))
    names = {node.name for node in optimised.graph.node}
    assert ("b32.conv1.demodulated" in names) == ("b32.conv1.modulated" in names) == (min_fold_modulation > 32)


@pytest.mark.parametrize("form", ["phases", "transposed", "polyphase"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("outputs", ["all", "up", "none"])
@pytest.mark.parametrize("noise", ["const", "none"])
def test_folded_modulation_rounds_the_same_numbers(
    rng: np.random.Generator, form: ConvForm, symmetric: bool, outputs: Literal["all", "up", "none"], noise: NoiseInput
) -> None:
    """Only the order of float32 products differs. It can change the rounding of values near a tie.

    ONNX Runtime computes symmetric convolutions in integers without folding, and in float32 with it. The two would
    differ if products of bytes saturated.
    """
    weights = random_weights(resolution=32)
    calibration = calibrate(weights, [rng.standard_normal((1, 8, 20)).astype(np.float32) for _ in range(4)])
    ws = rng.standard_normal((3, 8, 20)).astype(np.float32)
    exact = run(synthesis_model(weights, noise, "float"), ws=ws)

    def images(min_fold_modulation: float, for_openvino: bool = False) -> np.ndarray:
        plan = int8_plan(
            weights.config,
            calibration,
            form,
            symmetric,
            outputs,
            max_dynamic_range=16,
            min_fold_modulation=min_fold_modulation,
        )
        plan = replace(plan, per_sample_bias=for_openvino, split_styles=for_openvino)
        return run(synthesis_model(weights, noise, "float", plan), ws=ws)

    without_folding = images(np.inf)
    rounding = np.square(without_folding - exact).mean()
    assert rounding > 0
    for folded in (images(0), images(32), images(0, for_openvino=True), images(32, for_openvino=True)):
        assert np.square(folded - without_folding).mean() < 0.2 * rounding


@pytest.mark.parametrize("resolution", [16, 64])
def test_int8_images_stay_near_the_float_ones_on_unseen_latents(resolution: int) -> None:
    weights = random_weights(resolution=resolution, channel_base=1024)
    calibration = calibrate(weights, list(random_ws(weights, 16)[:, None]))
    ws = random_ws(weights, 16)
    exact = run(synthesis_model(weights, "const", "float"), ws=ws)
    images = run(synthesis_model(weights, "const", "float", int8_plan(weights.config, calibration)), ws=ws)
    # Random networks reach 24 to 42 dB. A wrong scale in one layer leaves less than 10.
    assert peak_snr_db(images, exact) > 18


@pytest.mark.parametrize("form", ["transposed", "phases", "polyphase"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_dynamic_range_of_a_sample_is_that_of_its_convolutions_input(
    rng: np.random.Generator, form: ConvForm, symmetric: bool
) -> None:
    """For ws far outside of the calibration, too, nothing is clipped and the whole range is used."""
    weights = random_weights(resolution=32)
    calibration = calibrate(weights, [rng.standard_normal((1, 8, 20)).astype(np.float32) for _ in range(3)])
    plan = int8_plan(weights.config, calibration, form, symmetric=symmetric)
    names = list(calibration)
    session = ort.InferenceSession(synthesis_model(weights, "const", "float", plan, observe=names).SerializeToString())
    ws = (rng.standard_normal((3, 8, 20)) * np.array([1, 10, 0.1])[:, None, None]).astype(np.float32)
    for name, x in zip(names, session.run([f"{n}.modulated" for n in names], {"ws": ws}), strict=True):
        ratio = 1.0 if symmetric else calibration[name].negative_ratio
        dynamic_range = np.maximum(x.max((1, 2, 3)), -x.min((1, 2, 3)) / ratio)
        assert dynamic_range == pytest.approx(1, rel=1e-5), name
        params = calibration[name].int8(symmetric, quantize_output=False, dynamic_range=True).input
        assert params.scale * (127 if symmetric else 255) == pytest.approx(1 if symmetric else 1 + ratio)


@pytest.mark.parametrize("plan_of", [float16_int8_plan, float16_fp8_plan])
def test_8_bits_around_float16_do_not_depend_on_the_size_of_the_activations(
    plan_of: Callable[[GeneratorWeights, Calibration], NetworkPlan],
) -> None:
    """All that is added to activations grows by a power of two beyond float16's range, and torgb shrinks by it."""
    small = random_weights(resolution=16, conv_clamp=None)
    size = np.float32(2**20)
    arrays = dict(small.arrays)
    for name, value in small.arrays.items():
        if name.endswith(("b4.const", "noise_strength")) or (
            name.endswith(".bias") and "conv" in name and "affine" not in name
        ):
            arrays[name] = value * size
        elif name.endswith("torgb.weight"):
            arrays[name] = value / size
    large = replace(small, arrays=arrays)
    ws = random_ws(small, 4)
    latents = list(ws[:, None])
    scale = {"small": plan_of(small, calibrate(small, latents)), "large": plan_of(large, calibrate(large, latents))}
    assert scale["large"].activation_scale > scale["small"].activation_scale == 1
    exact = run(synthesis_model(small, "const", "float"), ws=ws)
    psnr = [
        peak_snr_db(run(synthesis_model(w, "const", "float", plan), ws=ws), exact)
        for w, plan in zip((small, large), scale.values(), strict=True)
    ]
    assert min(psnr) > 20
    assert abs(psnr[0] - psnr[1]) < 3


def test_images_far_outside_of_the_calibration_are_as_good(rng: np.random.Generator) -> None:
    """Fixed ranges clip them: psi 1.5, 3 and 10."""
    weights = random_weights(resolution=32, channel_base=1024)
    calibration = calibrate(weights, [0.3 * rng.standard_normal((1, 8, 20)).astype(np.float32) for _ in range(8)])
    ws = (rng.standard_normal((12, 8, 20)) * np.repeat([1.5, 3, 10], 4)[:, None, None]).astype(np.float32)
    exact = run(synthesis_model(weights, "const", "float"), ws=ws)

    def square_error(max_dynamic_range: int) -> np.ndarray:
        plan = int8_plan(weights.config, calibration, outputs="none", max_dynamic_range=max_dynamic_range)
        return np.square(run(synthesis_model(weights, "const", "float", plan), ws=ws) - exact)

    dynamic, fixed = square_error(64), square_error(0)
    assert np.isfinite(dynamic).all()
    assert 10 * np.log10(np.square(exact).mean() / dynamic.mean()) > 10
    assert dynamic.mean() < 4 * fixed.mean()


def test_an_image_does_not_depend_on_its_batch(rng: np.random.Generator) -> None:
    weights = random_weights(resolution=16)
    calibration = calibrate(weights, [rng.standard_normal((1, 6, 20)).astype(np.float32) for _ in range(4)])
    model = synthesis_model(weights, "const", "uint8", int8_plan(weights.config, calibration))
    ws = (rng.standard_normal((4, 6, 20)) * np.array([1, 5, 0.2, 2])[:, None, None]).astype(np.float32)
    together, single = run(model, ws=ws), np.concatenate([run(model, ws=ws[i : i + 1]) for i in range(4)])
    # Sums in another order may round to another level, which changes a value by little.
    assert np.abs(together.astype(int) - single).mean() < 0.5


def only_torgb_quantized(plan: NetworkPlan) -> NetworkPlan:
    """The plan with 8 bits in no convolution, and with every migration."""
    layers = {n: layer if layer.form == "conv" else replace(layer, quantization=None) for n, layer in plan.layers.items()}
    return replace(plan, layers=layers)


def test_the_relative_error_of_an_8_bit_torgb_does_not_depend_on_the_size_of_its_style(rng: np.random.Generator) -> None:
    weights = random_weights(resolution=MIN_RGB_RESOLUTION)
    cfg, last = weights.config, weights.config.layers()[-1].name
    weights.arrays[f"synthesis.{last}.affine.bias"][:] = 0  # the size of the style is then that of the latent
    ws = rng.standard_normal((8, cfg.num_ws, 20)).astype(np.float32)
    plan = only_torgb_quantized(int8_plan(cfg, calibrate(weights, [w[None] for w in ws]), symmetric=True, rgb_form="conv"))
    assert plan.quantized_layers == [last]
    float_plan = replace(plan, layers={n: replace(layer, quantization=None) for n, layer in plan.layers.items()})
    networks = [synthesis_model(weights, "const", "float", p) for p in (None, plan, float_plan)]

    size = (10 ** rng.uniform(-1, 1, 8)).astype(np.float32)
    resized_ws = ws.copy()
    resized_ws[:, -1] *= size[:, None]  # the latent of torgb alone
    errors = []
    for latents in (ws, resized_ws):
        exact, int8_images, float_images = (run(network, ws=latents) for network in networks)
        assert np.abs(float_images - exact).max() < 1e-5 * np.abs(exact).max()
        errors.append(int8_images - exact)
    assert 0 < np.square(errors[0]).mean() < 1e-3 * np.square(exact).mean()
    relative = errors[1] / size[:, None, None, None]
    # A few values lie between two levels, so the bound is on the mean.
    assert np.abs(relative - errors[0]).mean() < 0.01 * np.abs(errors[0]).mean()


def test_openvino_reads_8_bits_into_torgb(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    weights = random_weights(resolution=MIN_RGB_RESOLUTION)
    plan = backend_plan(weights, "int8", "openvino", calibrate(weights, list(random_ws(weights, 2)[:, None])))
    assert plan is not None
    source = tmp_path / "source.onnx"
    source.write_bytes(synthesis_model(weights, plan=plan).SerializeToString())
    compiled = openvino.compile_model(lower(source, tmp_path / "lowered.onnx", 1), "CPU")
    types = {
        op.get_friendly_name(): op.get_rt_info()["runtimePrecision"] for op in compiled.get_runtime_model().get_ordered_ops()
    }
    last = weights.config.layers()[-1].name
    assert types[f"{last}.conv"] in ("i8", "u8")
    assert types["b64.torgb.conv"] not in ("i8", "u8")
