"""Default plans have the effect in the backend that they are made for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stylert.core.machine.host import instruction_sets
from stylert.export.default_plans import backend_plan
from stylert.export.network_plan import WINOGRAD_TILES, ConvForm, NetworkPlan, float32_plan
from stylert.export.synthesis import synthesis_model
from stylert.models.checkpoint import GeneratorWeights
from stylert.runtime.lowering import lower
from tests.export.networks import assert_close, random_weights, random_ws, run

openvino = pytest.importorskip("openvino")


def constant_shapes(weights: GeneratorWeights, plan: NetworkPlan, folder: Path) -> list[tuple[int, ...]]:
    """The shapes of all constants in OpenVINO's compiled network for one image."""
    source, lowered = folder / "source.onnx", folder / "lowered.onnx"
    source.write_bytes(synthesis_model(weights, plan=plan).SerializeToString())
    compiled = openvino.compile_model(lower(source, lowered, 1), "CPU")
    constants = [op for op in compiled.get_runtime_model().get_ordered_ops() if not op.inputs()]
    return [tuple(op.output(0).get_shape()) for op in constants if op.output(0).get_partial_shape().is_static]


def test_openvino_stores_noise_as_one_plane_and_not_as_one_per_channel(tmp_path: Path) -> None:
    weights = random_weights(resolution=32)

    def planes_at_32_px(plan: NetworkPlan) -> int:
        return max(shape[1] for shape in constant_shapes(weights, plan, tmp_path) if len(shape) == 4 and shape[2] == 32)

    plan = backend_plan(weights, "fp32", "openvino", None)
    assert plan is not None
    assert planes_at_32_px(plan) == 1
    assert planes_at_32_px(replace(plan, per_sample_bias=False)) == weights.config.channels(32)


@pytest.mark.skipif("avx512f" not in (instruction_sets() or []), reason="OpenVINO fuses in another way")
def test_openvino_multiplies_an_activation_by_the_styles_of_all_its_readers_in_one_pass(tmp_path: Path) -> None:
    weights = random_weights(resolution=32)

    def passes(plan: NetworkPlan) -> list[set[str]]:
        """For each node of the compiled network, the nodes of the file that it computes."""
        source, lowered = tmp_path / "source.onnx", tmp_path / "lowered.onnx"
        source.write_bytes(synthesis_model(weights, plan=plan).SerializeToString())
        network = openvino.compile_model(lower(source, lowered, 1), "CPU").get_runtime_model()
        infos = [op.get_rt_info() for op in network.get_ordered_ops() if op.get_type_name() != "Result"]
        return [set(str(info["originalLayersNames"].astype(str)).split(",")) for info in infos]

    plan = backend_plan(weights, "fp32", "openvino", None)
    assert plan is not None
    for resolution in (4, 8, 16):
        both = {f"b{resolution}.torgb.modulated", f"b{2 * resolution}.conv0.modulated"}
        assert any(both <= names for names in passes(plan))
        assert not any(both <= names for names in passes(replace(plan, split_styles=False)))


@pytest.mark.parametrize("form", WINOGRAD_TILES)
def test_openvino_computes_winograd_as_onnx_runtime_does(tmp_path: Path, form: ConvForm) -> None:
    weights = random_weights(resolution=32)
    ws = random_ws(weights, 2)
    model = synthesis_model(weights, "const", "float", float32_plan(weights.config, form))
    source, lowered = tmp_path / "source.onnx", tmp_path / "lowered.onnx"
    source.write_bytes(model.SerializeToString())
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    images = openvino.compile_model(lower(source, lowered, 2), "CPU", hint)({"ws": ws})[0]
    assert_close(images, run(model, ws=ws), 1e-5)
