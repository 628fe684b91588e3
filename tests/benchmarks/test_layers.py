"""Nodes are counted to the layer whose name the network gives them, also when a compiler renamed or inserted them."""

from __future__ import annotations

import pytest

from stylert.benchmarks.floors import layer_floors, network_floor
from stylert.benchmarks.layers import Node, assign_layers, kernels_by_layer, layer_of
from stylert.benchmarks.roofline import Ceiling, cases
from stylert.train.config import GeneratorConfig


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


def test_kernels_of_an_engine_are_counted_by_layer() -> None:
    table = {"layers": [{"name": "b8.conv0.conv"}, {"name": "__myl_MulAdd", "outputs": "b8.conv0"}, {"name": "gemm_affine"}]}
    assert {entry.layer: entry.value for entry in kernels_by_layer(table)} == {"b8.conv0": 2, "styles": 1}


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
