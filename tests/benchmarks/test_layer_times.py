"""Every node is assigned to a layer of the network, also where a compiler renamed, fused or inserted it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from stylert.benchmarks import layer_times
from stylert.benchmarks.layer_assignment import Node, assign_layers, engine_layers, layer_of, style_node_names
from stylert.benchmarks.layer_times import CallTimes, median_times, profile_layers
from stylert.benchmarks.machine.layer_operators import layer_operators
from stylert.benchmarks.machine.lower_bounds import layer_lower_bounds, network_lower_bound
from stylert.benchmarks.scenarios.measure import Configuration
from stylert.core.errors import BackendError
from stylert.core.machine.devices import Driver, Gpu
from stylert.core.machine.processor_class import processor_class
from stylert.core.roofline import PeakRates
from stylert.export.network_plan import ConvForm, float32_plan
from stylert.export.pipeline import export_bundle
from stylert.export.synthesis import OutputType, synthesis_model
from stylert.models.stylegan2.config import GeneratorConfig
from stylert.runtime import Bundle
from stylert.runtime.backends import openvino
from stylert.runtime.build_options import BuildOptions
from stylert.runtime.engines import build_engine
from stylert.runtime.layer_forms import RULES, WinogradRule
from stylert.runtime.lowering import lower
from tests.export.networks import random_weights


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
def test_a_name_of_the_exporter_tells_the_layer(name: str, layer: str | None) -> None:
    assert layer_of(name) == layer


@pytest.mark.parametrize("output", ["uint8", "float"])
@pytest.mark.parametrize("architecture", ["skip", "orig", "resnet"])
@pytest.mark.parametrize("form", ["operator", "transposed", "phases", "polyphase"])
def test_every_node_of_the_exporter_behind_the_constant_tells_its_layer(
    form: ConvForm, architecture: str, output: OutputType
) -> None:
    """Names are all that profilers keep of the exporter's nodes."""
    weights = random_weights(architecture=architecture, conv_clamp=0.9)
    graph = synthesis_model(weights, "const", output, float32_plan(weights.config, form)).graph
    known = {"b4.const"}
    layers = set()
    for node in graph.node:
        if known & set(node.input):
            known |= set(node.output)
            assert layer_of(node.name) is not None, node.name
            layers.add(layer_of(node.name))
    assert layers >= {spec.name for spec in weights.config.layers()} | {"image"}
    assert "image" in known


def test_a_node_without_a_name_of_ours_belongs_to_the_layer_that_it_feeds() -> None:
    chain = [
        Node("affine", ("ws",), ("s",), None),
        Node("b4.conv1.conv", ("s",), ("a",), "b4.conv1"),
        Node("Reorder_1", ("a",), ("b",), None),
        Node("Reorder_2", ("b",), ("c",), None),
        Node("b8.conv0.conv", ("c",), ("d",), "b8.conv0"),
        Node("Reorder_3", ("d",), ("e",), None),
    ]
    layers = assign_layers(chain, frozenset({"affine"}))
    assert layers == {
        "affine": "styles", "b4.conv1.conv": "b4.conv1", "Reorder_1": "b8.conv0", "Reorder_2": "b8.conv0",
        "b8.conv0.conv": "b8.conv0", "Reorder_3": "image",
    }  # fmt: skip


def test_of_several_readers_the_first_decides_the_layer() -> None:
    nodes = [
        Node("r", ("x",), ("y",), None),
        Node("first", ("y",), ("p",), "b8.conv1"),
        Node("second", ("y",), ("q",), "b8.torgb"),
    ]
    assert assign_layers(nodes)["r"] == "b8.conv1"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_kernel_of_an_engine_belongs_to_the_layer_that_it_was_fused_from(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """The engine is real. Its times come from a stand-in for the session, since there is no GPU."""
    pytest.importorskip("tensorrt_rtx")
    bundle = export_bundle(checkpoint, tmp_path / "bundle", [precision], backends=["tensorrt-rtx"])
    table = build_engine(bundle, "tensorrt-rtx", precision, BuildOptions(target="sm_89"))["layers"]
    driver = Driver("13.0", (Gpu(0, "a GPU", (8, 9), 2**34),), None)
    monkeypatch.setattr("stylert.runtime.backends.tensorrt_rtx.find_gpus", lambda: driver)
    session = SimpleNamespace(layer_times=lambda inputs: [(k["name"], 0.25) for k in table], close=lambda: None)
    monkeypatch.setattr(layer_times, "open_synthesis", lambda *_: (session, None))
    configuration = Configuration("own", bundle.path, "tensorrt-rtx", precision)
    profile = profile_layers(configuration, {})
    names = {entry.layer for entry in profile.layers}
    assert profile.total == pytest.approx(0.25 * len(table))
    assert sum(entry.nodes for entry in profile.layers) == len(table)
    assert {s.name for s in GeneratorConfig.from_dict(bundle.model).layers() if "conv" in s.name} <= names
    assert {"styles", "b8.skip", "b16.skip"} <= names
    assigned = assigned_layers(bundle, table)
    named_by_layer = [kernel["name"] for kernel in table if layer_of(kernel["name"]) is not None]
    assert named_by_layer
    assert all(assigned[name] == layer_of(name) for name in named_by_layer)


def assigned_layers(bundle: Bundle, table: list[dict[str, Any]]) -> dict[str, str]:
    (precision,) = bundle.precisions
    source = bundle.path / bundle.network(precision, "tensorrt-rtx")
    return engine_layers(table, lower(source, bundle.path / "plain.onnx"), style_node_names(source))


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
        calls.append(CallTimes())
        calls[-1].add("b4.conv1", ms)
        calls[-1].add("b4.conv1", 2 * ms)
    calls[0].add("image", 5.0)
    assert median_times(calls) == {"b4.conv1": (3.0, 2), "image": (0.0, 1)}


def test_pytorch_times_every_layer(checkpoint: Path, tmp_path: Path) -> None:
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
def test_openvino_times_the_network_of_fixed_shape_that_its_backend_runs(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    pytest.importorskip("openvino")
    assert batch in openvino.BATCHES
    networks = []
    lowered_network = openvino.lowered_network

    def lowered(source: Path, folder: Path, precision: str, batch: int) -> Path:
        networks.append((precision, batch))
        return lowered_network(source, folder, precision, batch)

    monkeypatch.setattr(openvino, "lowered_network", lowered)
    profile = profile_layers(Configuration("own", bundle.path, "openvino", "int8", batch), {})
    assert networks == [("int8", batch)]
    assert profile.total > 0


def test_onnxruntime_times_the_forms_of_the_processors_class(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = export_bundle(checkpoint, tmp_path / "bundle", ["fp32"], backends=[])
    rule = WinogradRule(4, 1, (8, 8), (1, 0), "a test")
    monkeypatch.setitem(RULES, processor_class(), rule)
    profile = profile_layers(Configuration("own", bundle.path, "onnxruntime", "fp32"), {})
    nodes = {entry.layer: entry.nodes for entry in profile.layers}
    assert nodes["b8.conv1"] >= len(("input transform", "products", "output transform")) + nodes["b4.conv1"]
    assert min(entry.value for entry in profile.layers) > 0


def test_a_backend_without_a_profiler_is_refused(bundle: Bundle) -> None:
    with pytest.raises(BackendError, match="no time per layer"):
        profile_layers(Configuration("own", bundle.path, "onnxruntime-cuda", "fp32"), {})


def test_the_lower_bound_of_a_network_is_the_sum_of_its_layers() -> None:
    config, rates = GeneratorConfig(64), PeakRates({"float32": 0.1, "bfloat16": 0.4, "int8": 0.8}, 20.0, "made up")
    operators = [o for o in layer_operators(config, config.block_resolutions) if o.name != "bias_act"]
    for precision, dtype in (("fp32", "float32"), ("bf16", "bfloat16"), ("fp16", "float32")):
        expected = {operator.layer: operator.lower_bound_ms(2, dtype, rates) for operator in operators}
        assert layer_lower_bounds(config, precision, 2, rates) == expected
        assert network_lower_bound(config, precision, 2, rates) == pytest.approx(sum(expected.values()))


def test_in_int8_the_convolutions_count_in_8_bits_and_the_rest_in_the_fastest_format() -> None:
    config, rates = GeneratorConfig(16), PeakRates({"float32": 0.1, "bfloat16": 0.4, "int8": 0.8}, 20.0, "made up")
    bounds = layer_lower_bounds(config, "int8", 1, rates)
    for operator in layer_operators(config, config.block_resolutions):
        if operator.name == "modulated_conv2d":
            eight = operator.spec.kind == "conv" and operator.spec.resolution >= 8
            assert bounds[operator.layer] == operator.lower_bound_ms(1, "int8" if eight else "bfloat16", rates)


def test_without_a_rate_there_is_no_lower_bound() -> None:
    assert network_lower_bound(GeneratorConfig(16), "bf16", 1, PeakRates({"int8": 1.0}, 20.0, "made up")) is None
