"""What each backend's default plan is for, seen in what the backend makes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stylert.export.defaults import backend_plan
from stylert.export.plan import NetworkPlan
from stylert.export.synthesis import synthesis_model
from stylert.models.checkpoint import GeneratorWeights
from stylert.runtime.lowering import lower
from tests.conftest import random_arrays, small_config
from tests.draws import fresh

openvino = pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def weights() -> GeneratorWeights:
    cfg = small_config(resolution=32)
    return GeneratorWeights(cfg, random_arrays(cfg, fresh()), {})


def constants(weights: GeneratorWeights, plan: NetworkPlan, folder: Path) -> list[tuple[int, ...]]:
    """Shapes of what OpenVINO keeps beside the compiled network for one image."""
    source, plain = folder / "source.onnx", folder / "plain.onnx"
    source.write_bytes(synthesis_model(weights, plan=plan).SerializeToString())
    compiled = openvino.compile_model(lower(source, plain, 1), "CPU")
    found = [op for op in compiled.get_runtime_model().get_ordered_ops() if not op.inputs()]
    return [tuple(op.output(0).get_shape()) for op in found if op.output(0).get_partial_shape().is_static]


def test_openvino_keeps_noise_as_one_plane_and_not_one_for_every_channel(weights: GeneratorWeights, tmp_path: Path) -> None:
    def planes(plan: NetworkPlan) -> int:
        return max(shape[1] for shape in constants(weights, plan, tmp_path) if len(shape) == 4 and shape[2] == 32)

    plan = backend_plan(weights, "fp32", "openvino", None)
    assert plan is not None
    assert planes(plan) == 1
    assert planes(replace(plan, live_bias=False)) == weights.config.channels(32)
