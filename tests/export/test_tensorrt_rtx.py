"""TensorRT-RTX accepts every network, and runs its convolutions in their own type. It compiles without a GPU."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stylert.export.default_plans import backend_plan, canonical_plan
from stylert.export.network_plan import WINOGRAD_TILES, ConvForm, conv_layers, float32_plan
from stylert.export.quantization.calibration import calibrate, int8_conv_layers
from stylert.export.synthesis import synthesis_model
from stylert.models.checkpoint import GeneratorWeights
from stylert.models.stylegan2.config import GeneratorConfig
from stylert.runtime.backends import tensorrt_rtx
from stylert.runtime.batching import BatchRange
from stylert.runtime.build_options import BuildOptions
from tests.conftest import random_arrays
from tests.draws import fresh
from tests.export.networks import random_weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="TensorRT-RTX's wheel is for Linux here"),
]


#: Precision, and whether the network has the backend's own plan.
NETWORKS = [("fp32", False), ("fp16", False), ("fp16", True), ("int8", True)]


def config_f_weights() -> GeneratorWeights:
    cfg = GeneratorConfig(256, channel_base=32768, mapping_layers=8)
    return GeneratorWeights(cfg, random_arrays(cfg, fresh()), {})


def build(
    weights: GeneratorWeights, precision: str, own_plan: bool, target: str, folder: Path, batch: BatchRange = (1, 4, 16)
) -> dict[str, Any]:
    """Build an engine of a network, and return the facts about its kernels."""
    cfg = weights.config
    ws = np.random.standard_normal((1, cfg.num_ws, cfg.w_dim)).astype(np.float32)
    calibration = calibrate(weights, [ws]) if precision in ("int8", "fp8") else None
    plan = (
        backend_plan(weights, precision, "tensorrt-rtx", calibration)
        if own_plan
        else canonical_plan(weights, precision, calibration)
    )
    (folder / "network.onnx").write_bytes(synthesis_model(weights, plan=plan).SerializeToString())
    options = BuildOptions(target=target, batch=batch)
    return tensorrt_rtx.BACKEND.build(folder / "network.onnx", precision, folder / "engine", options, lambda *_: None)


@pytest.mark.parametrize(
    ("precision", "own_plan", "target"),
    [
        *((*network, target) for network in NETWORKS for target in ("sm_80", "sm_89", "sm_120")),
        ("fp8", False, "sm_89"),
        ("fp8", False, "sm_120"),
    ],
)
def test_every_network_builds_and_computes_in_its_own_type(tmp_path: Path, precision: str, own_plan: bool, target: str) -> None:
    weights = random_weights(resolution=32)
    facts = build(weights, precision, own_plan, target, tmp_path)
    convolutions = [k for k in facts["layers"] if k["kind"] in ("correlation", "deconv")]
    wanted = {"fp32": "Float", "fp16": "Half", "int8": "Int8", "fp8": "FP8"}[precision]
    in_type = [k for k in convolutions if wanted in k["reads"]]
    expected = len(int8_conv_layers(weights.config)) if precision in ("int8", "fp8") else 7
    assert len(in_type) >= expected, [(k["name"], k["reads"]) for k in convolutions]
    if precision == "fp16":  # only the upsampling of the RGB image is in float32
        assert len(convolutions) - len(in_type) <= len(weights.config.block_resolutions) - 1


@pytest.mark.parametrize("form", WINOGRAD_TILES)
def test_winograd_is_built_as_products(tmp_path: Path, form: ConvForm) -> None:
    weights = random_weights(resolution=32)
    model = synthesis_model(weights, plan=float32_plan(weights.config, form))
    (tmp_path / "network.onnx").write_bytes(model.SerializeToString())
    options = BuildOptions(target="sm_89", batch=(1, 4, 16))
    facts = tensorrt_rtx.BACKEND.build(tmp_path / "network.onnx", "fp32", tmp_path / "engine", options, lambda *_: None)
    assert "correlation" not in facts["kinds"]
    assert facts["kinds"]["gemm"] >= len(conv_layers(weights.config))


@pytest.mark.long
@pytest.mark.parametrize("precision", ["fp16", "int8", "fp8"])
def test_the_256_px_network_of_config_f_takes_at_most_60_kernels(tmp_path: Path, precision: str) -> None:
    weights = config_f_weights()
    assert build(weights, precision, precision != "fp8", "sm_89", tmp_path)["kernels"] <= 60


def test_an_engine_for_single_images_takes_fewer_kernels_and_moves_fewer_bytes(tmp_path: Path) -> None:
    """The style of one image is a vector, and the compiler fuses its product into the convolution."""
    weights = config_f_weights()
    any_batch, single = (build(weights, "fp16", True, "sm_89", tmp_path, batch) for batch in ((1, 4, 16), (1, 1, 1)))
    assert single["kernels"] <= 50 < any_batch["kernels"]
    assert single["moved_bytes"] < 0.75 * any_batch["moved_bytes"]


@pytest.mark.parametrize(("precision", "own_plan"), NETWORKS)
@pytest.mark.parametrize("const", [(4, 8), (3, 5)])
def test_networks_of_images_that_are_not_square_build(
    tmp_path: Path, precision: str, own_plan: bool, const: tuple[int, int]
) -> None:
    weights = random_weights(resolution=32, const_height=const[0], const_width=const[1])
    facts = build(weights, precision, own_plan, "sm_89", tmp_path)
    assert any(k["kind"] in ("correlation", "deconv") for k in facts["layers"])
