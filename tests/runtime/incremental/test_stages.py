"""The stages of a network: together they are the network, and each has the layers of its own block."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from stylert.core.errors import BundleError
from stylert.export.network_plan import float16_plan, float32_plan
from stylert.export.synthesis import synthesis_model
from stylert.runtime.incremental.stages import Stage, cut
from tests.export.networks import random_weights, random_ws, run

CHANGES = st.fixed_dictionaries(
    {
        "resolution": st.sampled_from([4, 8, 16, 32]),
        "architecture": st.sampled_from(["skip", "resnet", "orig"]),
        "conv_clamp": st.sampled_from([None, 0.9]),
        "img_channels": st.sampled_from([1, 3]),
    }
)


def outputs(stages: list[Stage], **known: np.ndarray) -> dict[str, np.ndarray]:
    """All tensors that the stages give, each computed from those before."""
    for stage in stages:
        values = _session(stage.model).run(list(stage.outputs), {name: known[name] for name in stage.inputs})
        known |= dict(zip(stage.outputs, values, strict=True))
    return known


def _session(model: onnx.ModelProto) -> Any:
    from stylert.export.quantization.evaluation import cpu_session

    onnx.checker.check_model(model, full_check=True)
    return cpu_session(model)


@given(
    CHANGES, st.sampled_from(["const", "none", "input"]), st.sampled_from(["operator", "phases", "winograd4"]), st.booleans()
)
@settings(max_examples=25)
def test_the_stages_give_the_bytes_of_the_whole_network(
    changes: dict[str, Any], noise: Any, form: Any, style_offsets: bool
) -> None:
    weights = random_weights(**changes)
    model = synthesis_model(weights, noise, "uint8", float32_plan(weights.config, form), style_offsets=style_offsets)
    inputs = {
        value.name: np.random.standard_normal([3, *(d.dim_value for d in value.type.tensor_type.shape.dim[1:])]).astype(
            np.float32
        )
        for value in model.graph.input
    }
    stages = cut(model, weights.config.resolution)
    assert len(stages) == 1 + len(weights.config.block_resolutions)
    np.testing.assert_array_equal(outputs(stages, **inputs)["image"], run(model, **inputs))


def test_a_network_of_half_precision_is_cut_as_well() -> None:
    weights = random_weights(resolution=32)
    model = synthesis_model(weights, "const", "float", float16_plan(weights, "phases"))
    ws = random_ws(weights, 2)
    tensors = outputs(cut(model, 32), ws=ws)
    np.testing.assert_array_equal(tensors["image"], run(model, ws=ws))
    assert tensors["b8.conv1"].dtype == np.float16


def test_a_latent_changes_the_inputs_of_its_own_blocks_alone() -> None:
    weights = random_weights(resolution=32)
    stages = cut(synthesis_model(weights, "const", "uint8", float32_plan(weights.config, "phases")), 32)
    ws = random_ws(weights, 1)
    before = outputs(stages, ws=ws)
    for latent in range(ws.shape[1]):
        moved = ws.copy()
        moved[:, latent] += 1
        after = outputs(stages[:1], ws=moved)
        changed = [
            number
            for number, stage in enumerate(stages[1:])
            if any(name in after and not np.array_equal(after[name], before[name]) for name in stage.inputs)
        ]
        # Latents 0 | 1 2 | 3 4 | 5 6 style the blocks of 4, 8, 16, 32 px; the last one is that of the last torgb.
        assert changed == [min((latent + 1) // 2, 3)]


def test_each_weight_is_in_one_stage() -> None:
    weights = random_weights(resolution=32)
    model = synthesis_model(weights, "const", "uint8", float32_plan(weights.config, "phases"))
    stages = cut(model, 32)
    large = [t.name for stage in stages for t in stage.model.graph.initializer if t.name.endswith(".weight")]
    assert sorted(large) == sorted(t.name for t in model.graph.initializer if t.name.endswith(".weight"))


def test_the_first_stage_computes_the_styles_of_the_reference() -> None:
    weights = random_weights(resolution=8)
    model = synthesis_model(weights, "const", "uint8", float32_plan(weights.config, "phases"))
    styles, ws = cut(model, 8)[0], random_ws(weights, 2)
    for name, value in zip(styles.outputs, ReferenceEvaluator(styles.model).run(None, {"ws": ws}), strict=True):
        np.testing.assert_allclose(outputs([styles], ws=ws)[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["b4.const", "b8.conv1"])
def test_a_network_without_a_name_by_which_it_is_cut_is_refused(name: str) -> None:
    weights = random_weights(resolution=16)
    model = synthesis_model(weights, "const", "uint8", float32_plan(weights.config, "phases"))
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [f"other_{n}" if n == name else n for n in names]
    for tensor in model.graph.initializer:
        tensor.name = f"other_{name}" if tensor.name == name else tensor.name
    with pytest.raises(BundleError, match="cannot be cut into stages"):
        cut(model, 16)
