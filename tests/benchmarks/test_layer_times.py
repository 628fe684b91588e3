"""Nodes are counted to the layer whose name the network gives them, also when a compiler renamed or inserted them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from stylert.benchmarks import layer_times as layers
from stylert.benchmarks.layer_times import Call, Node, assign_layers, engine_layers, layer_of, medians, profile_layers
from stylert.benchmarks.machine.lower_bounds import layer_floors, network_floor
from stylert.benchmarks.machine.roofline import Ceiling, cases
from stylert.benchmarks.scenarios.measure import Configuration
from stylert.core.devices import Driver, Gpu
from stylert.core.errors import BackendError
from stylert.export.pipeline import export_bundle
from stylert.models.stylegan2.config import GeneratorConfig
from stylert.runtime import Bundle, lowering
from stylert.runtime.backends import openvino
from stylert.runtime.build_options import BuildOptions
from stylert.runtime.engines import build_engine
from stylert.runtime.lowering import lower


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("b64.conv1", "b64.conv1"),
        ("b64.conv0.blurred_nchwc", "b64.conv0"),
        ("b8.torgb.matmul", "b8.torgb"),
        ("b128.upsampled", "b128.skip"),
        ("b16.img", "b16.skip"),
        ("b16.skip.conv", "b16.skip"),
        ("clipped", "image"),
        ("affine", None),
        ("ReorderOutput_token_12", None),
        ("b12x.conv1", None),
    ],
)
def test_layers_in_names(name: str, layer: str | None) -> None:
    assert layer_of(name) == layer


def test_nameless_nodes_belong_to_what_they_feed() -> None:
    chain = [
        Node("affine", ("ws",), ("s",), None),
        Node("b4.conv1.conv", ("s",), ("a",), "b4.conv1"),
        Node("Reorder_1", ("a",), ("b",), None),
        Node("Reorder_2", ("b",), ("c",), None),
        Node("b8.conv0.conv", ("c",), ("d",), "b8.conv0"),
        Node("Reorder_3", ("d",), ("e",), None),
    ]
    found = assign_layers(chain, frozenset({"affine"}))
    assert found == {
        "affine": "styles", "b4.conv1.conv": "b4.conv1", "Reorder_1": "b8.conv0", "Reorder_2": "b8.conv0",
        "b8.conv0.conv": "b8.conv0", "Reorder_3": "image",
    }  # fmt: skip


def test_of_several_readers_the_first_counts() -> None:
    nodes = [
        Node("r", ("x",), ("y",), None),
        Node("first", ("y",), ("p",), "b8.conv1"),
        Node("second", ("y",), ("q",), "b8.torgb"),
    ]
    assert assign_layers(nodes)["r"] == "b8.conv1"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_kernels_of_an_engine_are_counted_to_the_layers_that_they_were_fused_from(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """The engine is real; its times come from a session of our own, since no GPU is here."""
    pytest.importorskip("tensorrt_rtx")
    bundle = export_bundle(checkpoint, tmp_path / "bundle", [precision], backends=["tensorrt-rtx"])
    table = build_engine(bundle, "tensorrt-rtx", precision, BuildOptions(target="sm_89"))["layers"]
    driver = Driver("13.0", (Gpu(0, "a GPU", (8, 9), 2**34),), None)
    monkeypatch.setattr("stylert.runtime.backends.tensorrt_rtx.find_gpus", lambda: driver)
    told = SimpleNamespace(layer_times=lambda inputs: [(k["name"], 0.25) for k in table], close=lambda: None)
    monkeypatch.setattr(layers, "open_synthesis", lambda *_: (told, None))
    configuration = Configuration("own", bundle.path, "tensorrt-rtx", precision)
    profile = profile_layers(configuration, {})
    found = {entry.layer: entry for entry in profile.layers}
    assert profile.total == pytest.approx(0.25 * len(table))
    assert sum(entry.nodes for entry in profile.layers) == len(table)
    assert {s.name for s in GeneratorConfig.from_dict(bundle.model).layers() if "conv" in s.name} <= set(found)
    assert {"styles", "b8.skip", "b16.skip"} <= set(found)
    with_layer = [k for k in table if layer_of(k["name"]) is not None]
    assert with_layer  # those that still bear their layer's name belong to it
    for kernel in with_layer:
        assert assigned(bundle, table)[kernel["name"]] == layer_of(kernel["name"])


def assigned(bundle: Bundle, table: list[dict[str, Any]]) -> dict[str, str]:
    (precision,) = bundle.precisions
    source = bundle.path / bundle.network(precision, "tensorrt-rtx")
    return engine_layers(table, lower(source, bundle.path / "plain.onnx"), layers._style_names(source))


def test_a_kernel_fused_from_several_layers_belongs_to_the_one_with_most_of_its_nodes(tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("Identity", [f"x{i}"], [f"x{i + 1}"], name) for i, name in enumerate("abc")]
    graph = onnx.helper.make_graph(nodes, "g", [], [])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "g.onnx")
    table = [
        {"name": "k1", "origins": ["b8.conv0.noisy", "b8.conv1.style", "b8.conv1.modulated"]},
        {"name": "k2", "origins": ["a", "b"]},
        {"name": "b8.conv1.conv_U3", "origins": []},
        {"name": "k3", "origins": []},
    ]
    assert engine_layers(table, tmp_path / "g.onnx", frozenset("a")) == {
        "k1": "b8.conv1", "k2": "styles", "b8.conv1.conv_U3": "b8.conv1", "k3": "styles",
    }  # fmt: skip


def test_one_slow_call_does_not_change_a_layers_time() -> None:
    calls = []
    for ms in (1.0, 1.0, 90.0):
        calls.append(Call())
        calls[-1].add("b4.conv1", ms)
        calls[-1].add("b4.conv1", 2 * ms)
    calls[0].add("image", 5.0)
    assert medians(calls) == {"b4.conv1": (3.0, 2), "image": (0.0, 1)}


def test_pytorch_tells_the_time_of_every_layer(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    bundle = export_bundle(checkpoint, tmp_path / "bundle", ["fp32"], backends=[])
    profile = profile_layers(Configuration("own", bundle.path, "torch", "fp32", batch=2), {})
    names = [entry.layer for entry in profile.layers]
    assert names == [
        "styles", "b4.conv1", "b4.torgb", "b8.skip", "b8.conv0", "b8.conv1", "b8.torgb", "b16.skip", "b16.conv0", "b16.conv1",
        "b16.torgb", "image",
    ]  # fmt: skip
    assert min(entry.value for entry in profile.layers) > 0
    assert sum(entry.nodes for entry in profile.layers) == len(onnx.load(bundle.path / "synthesis.fp32.onnx").graph.node)


@pytest.mark.parametrize("batch", [1, 4])
def test_openvinos_times_are_of_the_network_of_fixed_shape_that_it_runs(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    pytest.importorskip("openvino")
    assert batch in openvino.SIZES
    batches = []

    def lowered(source: Path, destination: Path, batch: int | None = None) -> Path:
        batches.append(batch)
        return lower(source, destination, batch)

    monkeypatch.setattr(lowering, "lower", lowered)
    profile = profile_layers(Configuration("own", bundle.path, "openvino", "fp32", batch), {})
    assert batches == [batch]
    assert profile.total > 0


def test_a_backend_that_tells_no_times_says_so(bundle: Bundle) -> None:
    with pytest.raises(BackendError, match="no time per layer"):
        profile_layers(Configuration("own", bundle.path, "onnxruntime-cuda", "fp32"), {})


def test_the_floor_of_a_network_is_the_sum_of_its_layers() -> None:
    config, ceiling = GeneratorConfig(64), Ceiling({"float32": 0.1, "bfloat16": 0.4, "int8": 0.8}, 20.0, "made up")
    for precision, dtype in (("fp32", "float32"), ("bf16", "bfloat16"), ("fp16", "float32")):
        expected = {
            c.layer: ceiling.floor_ms(c, 2, dtype) for c in cases(config, config.block_resolutions) if c.kernel != "bias_act"
        }
        assert layer_floors(config, precision, 2, ceiling) == expected
        assert network_floor(config, precision, 2, ceiling) == pytest.approx(sum(expected.values()))


def test_in_int8_the_convolutions_count_in_8_bits_and_the_rest_in_the_fastest_format() -> None:
    config, ceiling = GeneratorConfig(16), Ceiling({"float32": 0.1, "bfloat16": 0.4, "int8": 0.8}, 20.0, "made up")
    floors = layer_floors(config, "int8", 1, ceiling)
    for case in cases(config, config.block_resolutions):
        if case.kernel == "modulated_conv2d":
            eight = case.spec.kind == "conv" and case.spec.resolution >= 8
            assert floors[case.layer] == ceiling.floor_ms(case, 1, "int8" if eight else "bfloat16")


def test_without_a_rate_there_is_no_floor() -> None:
    assert network_floor(GeneratorConfig(16), "bf16", 1, Ceiling({"int8": 1.0}, 20.0, "made up")) is None
