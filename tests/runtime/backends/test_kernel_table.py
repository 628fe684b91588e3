"""The table of kernels: bytes, multiplications and the roofline equal sums made by hand."""

from __future__ import annotations

import pytest

from stylert.core.roofline import PeakRates
from stylert.runtime.backends.kernel_table import engine_lower_bound_ms, kernels_of, layer_table

CONV = (
    "Name: c, LayerType: correlation, Inputs: [ { Name: x, Dimensions: [-1,32,8,8], Strides: [2048,1,256,32], Datatype: Half, "
    "Format: (NHWC) }], Constants: [ { Name: w, Dimensions: [64,32,3,3], Datatype: Half }, { Name: b, Dimensions: [1,64,1,1], "
    "Datatype: Half }], Outputs: [ { Name: y, Dimensions: [-1,64,8,8], Datatype: Half }], TacticName: t, "
    "Metadata: [ONNX Layer: b8.conv1.conv][ONNX Layer: b8.conv1.noisy]"
)
FUSED = CONV.replace("LayerType: correlation", "LayerType: runtime_fusion").replace(
    "Name: c,", "Name: __myl_CorrAddMulMax_myl0_2,"
)
DECONV = (
    "Name: d, LayerType: deconv, Inputs: [ { Name: y, Dimensions: [-1,64,8,8], Datatype: Int8 }], Constants: "
    "[ { Name: w, Dimensions: [64,16,3,3], Datatype: Int8 }], Outputs: [ { Name: u, Dimensions: [-1,16,17,17], Datatype: Half }]"
)
POINTWISE = (
    "Name: p, LayerType: kgen, Inputs: [ { Name: u, Dimensions: [-1,16,17,17], Datatype: Half }, { Name: s, Dimensions: [-1,16,1,1], "
    "Datatype: Float }], Constants: [], Outputs: [ { Name: v, Dimensions: [-1,17,17,16], Datatype: UInt8 }]"
)
HOST = "Name: s, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [ { Name: n, Dimensions: [4], Datatype: Int64 }]"
LOG = "\n".join(["Layers:", CONV, DECONV, POINTWISE, HOST, "Total Weights Memory: 46208 bytes"])

BYTES = {
    "c": 2 * (32 * 64 + 64 * 32 * 9 + 64 + 64 * 64),
    "d": 64 * 64 + 64 * 16 * 9 + 2 * 16 * 17**2,
    "p": 2 * 16 * 17**2 + 4 * 16 + 16 * 17**2,
}
MACS = {"c": 64 * 64 * 32 * 9, "d": 64 * 64 * 16 * 9, "p": 0}


def test_every_kernel_has_its_bytes_and_multiplications() -> None:
    table = layer_table(LOG)
    kernels = {k["name"]: k for k in table["layers"]}
    assert {n: kernels[n]["bytes"] for n in BYTES} == BYTES
    assert {n: kernels[n]["macs"] for n in MACS} == MACS
    assert (table["kernels"], table["kinds"]) == (3, {"correlation": 1, "deconv": 1, "kgen": 1})
    assert (table["moved_bytes"], table["weights_bytes"]) == (sum(BYTES.values()), 46208)  # the host's shapes are no traffic
    assert kernels["c"]["origins"] == ["b8.conv1.conv", "b8.conv1.noisy"]
    assert (kernels["c"]["reads"], kernels["p"]["reads"], kernels["p"]["writes"]) == (
        ["Half"],
        ["Float", "Half"],
        ["UInt8[-1,17,17,16]"],
    )
    assert layer_table(FUSED)["layers"][0]["macs"] == MACS["c"]  # fused with what follows it, as many


def test_figures_of_an_engine_with_several_ranges_are_of_one() -> None:
    of_range = [
        line.replace(": c,", f": c_myl{i}_3,").replace(": p,", f": __myl_Mul_myl{i}_4,")
        for i in (0, 1)
        for line in (CONV, POINTWISE)
    ]
    for batch_range in (0, 1):
        table = layer_table("\n".join([*of_range, CONV.replace(": c,", ": another_myl1_5,")]), batch_range)
        assert [layer["range"] for layer in table["layers"]] == [0, 0, 1, 1, 1]
        assert (table["range"], table["kernels"]) == (batch_range, 2 + batch_range)
        assert table["moved_bytes"] == (1 + batch_range) * BYTES["c"] + BYTES["p"]
        assert [k["range"] for k in kernels_of(table["layers"], batch_range)] == [batch_range] * table["kernels"]


def test_the_lower_bound_is_the_longer_of_bytes_and_arithmetic_kernel_by_kernel() -> None:
    layers = kernels_of(layer_table(LOG)["layers"], 0)
    slow_memory = PeakRates({"float32": 1e3, "float16": 1e3, "int8": 1e3}, 1e-3, "made up")
    assert engine_lower_bound_ms(layers, slow_memory) == pytest.approx(sum(BYTES.values()) / 1e6 * 1e3)
    slow_arithmetic = PeakRates({"float32": 1.0, "float16": 1e-6, "int8": 4e-6}, 1e6, "made up")
    expected = (2 * MACS["c"] / 1e6 + 2 * MACS["d"] / 4e6 + BYTES["p"] / 1e15) * 1e3
    assert engine_lower_bound_ms(layers, slow_arithmetic) == pytest.approx(expected)
    # A GPU without 8 bits multiplies in half precision.
    without_int8 = PeakRates({"float32": 1.0, "float16": 1e-6}, 1e6, "made up")
    assert engine_lower_bound_ms(layers, without_int8) > expected


def test_a_log_without_a_table_is_an_empty_one() -> None:
    assert layer_table("nothing of the kind") == {"kernels": 0, "kinds": {}, "moved_bytes": 0, "range": 0, "layers": []}
