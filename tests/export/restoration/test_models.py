"""The ONNX networks equal the float64 reference in every form, for any batch. float16 stays bounded, and 8 bits keep their PSNR."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stylert.core.errors import CheckpointError
from stylert.core.images.similarity import psnr_each
from stylert.export.quantization.evaluation import cpu_session
from stylert.export.restoration.calibration import calibrate, float16_plan, images_on_cpu, int8_plan, search_plan
from stylert.export.restoration.network import convolutions, restoration_model
from stylert.export.restoration.photographs import drawn_photograph, photographs
from stylert.export.restoration.plan import RestorationPlan
from stylert.models.restoration.checkpoints import RestorerConfig, RestorerWeights, read_restorer
from stylert.models.restoration.gfpgan.config import GfpganConfig
from stylert.models.restoration.gpen.config import GpenConfig
from tests.draws import fresh
from tests.models.restoration.float64_reference import REFERENCES
from tests.models.restoration.public_files import public_file
from tests.models.restoration.test_networks import configurations, random_weights

FORMS = {
    "operators": RestorationPlan(),
    "separate phases": RestorationPlan(operators=False),
    "transposed": RestorationPlan(operators=False, up_form="transposed"),
    "phases": RestorationPlan(operators=False, up_form="phases"),
}
#: One network of each kind in which the widest layers become operator nodes.
WIDE: list[RestorerConfig] = [
    GfpganConfig(16, (130, 3, 2), (129, 4, 3), 5),
    GfpganConfig(16, (3, 130, 2), (4, 131, 3), 5, False, False),
    GpenConfig(16, (129, 130, 2), 5, 1),
]


def expected_images(weights: RestorerWeights, photos: np.ndarray) -> np.ndarray:
    """float64 `[N, 3, R, R]` of the reference."""
    return REFERENCES[weights.config.network](weights.arrays, weights.config)(photos.transpose(0, 3, 1, 2) / 127.5 - 1)


def random_photos(side: int, count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (count, side, side, 3), np.uint8)


def images(model: onnx.ModelProto, photos: np.ndarray) -> np.ndarray:
    return np.asarray(cpu_session(model).run(["image"], {"photo": photos})[0])


def check_forms(weights: RestorerWeights, rng: np.random.Generator) -> None:
    photos = random_photos(weights.config.resolution, 3, rng)
    expected = expected_images(weights, photos)
    for form, plan in FORMS.items():
        actual = images(restoration_model(weights, plan, "float"), photos)
        # Random styles may be far from demodulated, so float32 has errors beyond its last bit.
        assert np.abs(actual - expected).max() <= 2e-4 * np.abs(expected).max(), form


@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(cfg=configurations(), seed=st.integers(0, 2**32 - 1))
def test_every_form_equals_the_float64_reference(cfg: RestorerConfig, seed: int) -> None:
    rng = np.random.default_rng(seed)
    check_forms(random_weights(cfg, rng), rng)


@pytest.mark.parametrize("cfg", WIDE, ids=lambda cfg: cfg.network)
def test_wide_layers_are_operator_nodes_and_equal_the_reference(cfg: RestorerConfig) -> None:
    weights = random_weights(cfg, fresh())
    nodes = [node.op_type for node in restoration_model(weights).graph.node]
    assert "ModulatedConv2d" in nodes
    assert "ModulatedConv2d" not in [node.op_type for node in restoration_model(weights, FORMS["transposed"]).graph.node]
    check_forms(weights, fresh())


@pytest.fixture(scope="module", params=["gfpgan", "gpen"])
def seeded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RestorerWeights:
    """A network with signals of usual size, wide enough for 8 bits."""
    return read_restorer(public_file(tmp_path_factory.mktemp("seeded"), request.param, 32, 1 / 16))


def test_images_of_a_batch_are_those_of_its_photographs(seeded: RestorerWeights) -> None:
    photos = random_photos(32, 5, fresh())
    model = restoration_model(seeded, output="float")
    single = np.concatenate([images(model, photo[None]) for photo in photos])
    np.testing.assert_allclose(images(model, photos), single, atol=1e-4 * np.abs(single).max())


def test_bytes_are_the_rounded_image(seeded: RestorerWeights) -> None:
    photos = random_photos(32, 2, fresh())
    exact = expected_images(seeded, photos).transpose(0, 2, 3, 1) * 127.5 + 127.5
    actual = images(restoration_model(seeded), photos)
    assert actual.shape == photos.shape
    assert np.abs(actual - np.clip(exact, 0, 255)).max() <= 0.501
    assert actual.std() > 10


def test_float16_images_have_50_db(seeded: RestorerWeights) -> None:
    photos = photographs(32, count=4)
    half = images_on_cpu(restoration_model(seeded, float16_plan(seeded, photos)), photos)
    assert psnr_each(half, images_on_cpu(restoration_model(seeded), photos)).min() >= 50


def scaled(weights: RestorerWeights, factor: float) -> RestorerWeights:
    """The network with signals of the encoder `factor` times as large, and the same images."""
    arrays = dict(weights.arrays)
    if isinstance(weights.config, GfpganConfig):
        # Leaky ReLU is homogeneous: a factor of the first layer and of all later biases is one of all features.
        for name in arrays:
            in_unet = name.startswith(("conv_body", "final_conv")) or (
                name.startswith("condition") and name.endswith(".0.bias")
            )
            if name == "conv_body_first.weight" or (in_unet and name.endswith(".bias")):
                arrays[name] = arrays[name] * np.float32(factor)
            elif name == "final_linear.weight" or (name.startswith("condition") and name.endswith(".2.weight")):
                arrays[name] = arrays[name] / np.float32(factor)
    else:
        for name in arrays:
            if name == "ecd0.0.0.weight" or (name.startswith("ecd") and name.endswith(".bias")):
                arrays[name] = arrays[name] * np.float32(factor)
            elif name == "final_linear.0.weight" or name.endswith(".noise.weight"):
                arrays[name] = arrays[name] / np.float32(factor)
    return replace(weights, arrays=arrays)


@pytest.mark.parametrize("factor", [1e5, 1e-5])
def test_float16_keeps_its_accuracy_where_signals_exceed_its_range(seeded: RestorerWeights, factor: float) -> None:
    photos = photographs(32, count=3)
    weights = scaled(seeded, factor)
    expected = images_on_cpu(restoration_model(seeded), photos)
    assert psnr_each(images_on_cpu(restoration_model(weights), photos), expected).min() > 60  # the same network
    plan = float16_plan(weights, photos)
    assert plan.encoder_scale > 1 if factor > 1 else plan.encoder_scale < 1
    assert psnr_each(images_on_cpu(restoration_model(weights, plan), photos), expected).min() >= 50
    if factor > 1:  # small signals lose their digits only where runtimes flush subnormal numbers to zero
        with pytest.raises((CheckpointError, AssertionError)):  # a weight is beyond float16, or the images are others
            without = images_on_cpu(restoration_model(weights, RestorationPlan(float16=True)), photos)
            assert psnr_each(without, expected).min() > 40


def test_a_photograph_far_beyond_the_measured_ones_makes_no_flat_image(seeded: RestorerWeights) -> None:
    dark = np.full((3, 32, 32, 3), 127, np.uint8)
    dark[:, ::7, ::5] += 1  # almost no signal, so the plan has the least scale
    plan = float16_plan(scaled(seeded, 3e3), dark)
    photos = random_photos(32, 2, fresh())
    half = images(restoration_model(scaled(seeded, 3e3), plan, "float"), photos)
    assert np.isfinite(half).all()
    assert half.std() > 0.05


def test_float16_refuses_weights_that_it_cannot_hold(seeded: RestorerWeights) -> None:
    name = "conv_body_down.0.conv1.weight" if "final_conv.weight" in seeded.arrays else "ecd1.0.1.weight"
    arrays = {**seeded.arrays, name: np.full_like(seeded.arrays[name], 1e7)}
    with pytest.raises(CheckpointError, match="float16 cannot hold"):
        restoration_model(replace(seeded, arrays=arrays), RestorationPlan(float16=True))


@pytest.mark.parametrize("network", ["gfpgan", "gpen"])
def test_8_bit_images_reach_the_psnr_that_the_search_is_given(network: str, tmp_path: Path) -> None:
    weights = read_restorer(public_file(tmp_path, network, 16, 1 / 32))
    photos = photographs(16, count=3)
    expected = images_on_cpu(restoration_model(weights), photos)
    calibration = calibrate(weights, photos)
    for backend in ("onnxruntime", "openvino"):
        every = int8_plan(calibration, backend)
        assert set(every.quantized) <= set(convolutions(weights, every))
        plan, found = search_plan(weights, calibration, every, photos, 35.0, images_on_cpu)
        assert found.target_met
        model = restoration_model(weights, plan)
        assert psnr_each(images_on_cpu(model, photos), expected).mean() >= 35
        kinds = [node.op_type for node in model.graph.node]
        assert kinds.count("QuantizeLinear") >= len(plan.quantized) > 0
    strict, _ = search_plan(weights, calibration, every, photos, 90.0, images_on_cpu)
    assert len(strict.quantized) < len(every.quantized)


def test_drawn_photographs_differ_and_repeat() -> None:
    drawn = [drawn_photograph(64, seed) for seed in range(6)]
    assert len({photo.tobytes() for photo in drawn}) == 6
    assert all(photo.std() > 20 for photo in drawn)
    np.testing.assert_array_equal(drawn[3], drawn_photograph(64, 3))
