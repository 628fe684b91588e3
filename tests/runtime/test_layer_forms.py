"""ONNX Runtime gets float32 layers in the forms of the processor's class, with the images of the file as it is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from stylert.core.errors import BundleError
from stylert.core.machine.processor_class import CLASSES, processor_class
from stylert.core.seeds import z_from_seeds
from stylert.export.pipeline import export_bundle
from stylert.plugins.winograd_rewrite import ConvNode
from stylert.runtime import Bundle, Generator
from stylert.runtime.build_options import BuildOptions
from stylert.runtime.engines import build_engine, engine_key, find_engine
from stylert.runtime.layer_forms import RULES, WinogradRule, layer_forms


def use_rule(monkeypatch: pytest.MonkeyPatch, **changes: object) -> WinogradRule:
    """Give this processor a rule that takes layers of the small networks of the tests."""
    rule = replace(RULES[processor_class()], **{"min_channels": 1, "sides": (4, 64), "up_sides": (4, 64), **changes})  # type: ignore[arg-type]
    monkeypatch.setitem(RULES, processor_class(), rule)
    return rule


def peak_snr_db(images: np.ndarray, expected: np.ndarray) -> float:
    errors = images.astype(np.float64) - expected
    return float(20 * np.log10(np.abs(expected).max() / np.sqrt(np.square(errors).mean())))


@pytest.mark.parametrize("noise", ["const", "input", "none"])
def test_images_have_90_db_and_the_engine_says_which_layers_and_why(
    noise: str, make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = export_bundle(make_checkpoint(resolution=32), tmp_path / "b", ["fp32"], noise, "float")  # type: ignore[arg-type]
    inputs = {
        name: np.random.standard_normal((3, 1, side, side)).astype(np.float32) for name, side in bundle.noise_inputs.items()
    }

    def images() -> np.ndarray:
        with Generator.load(bundle, "onnxruntime", "fp32") as generator:
            ws = generator.map(z_from_seeds(range(3), generator.bundle.model["z_dim"]))
            return generator.synthesize(ws, noise=inputs) if inputs else generator.synthesize(ws)

    use_rule(monkeypatch, sides=(1, 0), up_sides=(1, 0))
    direct = images()
    rule = use_rule(monkeypatch)
    assert 90 < peak_snr_db(images(), direct) < 200
    assert build_engine(bundle, "onnxruntime", "fp32")["forms"] == {
        "class": processor_class().name,
        "winograd": [f"b{side}.conv{i}" for side in (4, 8, 16, 32) for i in (0, 1) if (side, i) != (4, 0)],
        "rule": rule.name,
        "reason": rule.reason,
    }
    with Generator.load(bundle, "onnxruntime", "fp32") as generator:
        assert generator.engine is not None
    assert peak_snr_db(images(), direct) > 90


def test_an_engine_of_another_rule_is_not_used(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Bundle.load(shutil.copytree(bundle.path, tmp_path / "bundle"))
    build_engine(copy, "onnxruntime", "fp32")
    assert find_engine(copy, engine_key(copy, "onnxruntime", "fp32", BuildOptions())) is not None
    use_rule(monkeypatch)
    assert find_engine(copy, engine_key(copy, "onnxruntime", "fp32", BuildOptions())) is None


def test_every_class_has_a_rule_with_a_reason() -> None:
    assert set(RULES) == set(CLASSES)
    assert all(rule.reason for rule in RULES.values())


def test_a_rule_takes_layers_by_their_size_and_channels() -> None:
    rule = WinogradRule(4, 128, (16, 256), (64, 128), "")
    conv = ConvNode("conv", 512, 512, (64, 64), 1)
    assert rule.tile_of(conv) == 4
    assert rule.tile_of(replace(conv, out_channels=64)) is None
    assert rule.tile_of(replace(conv, size=(8, 8))) is None
    assert rule.tile_of(replace(conv, size=(64, 512))) is None
    assert rule.tile_of(replace(conv, size=(256, 256), up=2)) is None
    assert rule.tile_of(replace(conv, size=(128, 128), up=2)) == 4


def test_a_network_without_such_layers_and_a_tuned_file_are_opened_as_they_are(bundle: Bundle) -> None:
    content, facts = layer_forms(bundle.path / bundle.network("fp32", "onnxruntime"))
    assert content is None
    assert facts["winograd"] == []


def test_a_node_that_is_not_valid_is_refused_in_one_line(bundle: Bundle, tmp_path: Path) -> None:
    model = onnx.load(bundle.path / bundle.network("fp32", "onnxruntime"))
    node = next(node for node in model.graph.node if node.op_type == "ModulatedConv2d")
    del node.output[:]
    del node.input[3:]
    onnx.save(model, tmp_path / "damaged.onnx")
    with pytest.raises(BundleError) as e:
        layer_forms(tmp_path / "damaged.onnx")
    assert "\n" not in str(e.value)
