"""The layer benchmark counts the arithmetic of the networks, refuses wrong results, and runs whole without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stylert.benchmarks.kernels import layers as layers_module
from stylert.benchmarks.kernels.layers import FORMS, main, measure
from stylert.benchmarks.kernels.operator_forms import TOLERANCE
from stylert.benchmarks.kernels.options import CONFIG_F, TINY
from stylert.benchmarks.machine.layer_operators import LayerOperator, layer_operators
from stylert.benchmarks.machine.lower_bounds import ACTIVATION_DTYPES
from stylert.benchmarks.schema import read_results
from stylert.core.errors import BackendError
from stylert.core.roofline import PeakRates

RATES = PeakRates({"float32": 1.0, "float16": 2.0}, 1000.0, "made up")


def test_the_arithmetic_is_that_of_the_generator() -> None:
    for config in (CONFIG_F, TINY):
        operators = layer_operators(config, config.block_resolutions)
        layers = [layer for layer in operators if layer.name == "modulated_conv2d"]
        assert [layer.spec for layer in layers] == config.layers()
        filters = sum(2 * 16 * layer.spec.out_channels * layer.spec.resolution**2 for layer in layers if layer.spec.up == 2)
        assert sum(layer.flops(3) for layer in layers) == 3 * (2 * config.macs() + filters)


def test_a_lower_bound_is_the_longer_of_arithmetic_and_traffic() -> None:
    for operator in layer_operators(CONFIG_F, (4, 64, 1024)):
        arithmetic, traffic = operator.flops(2) / 2e12 * 1000, operator.bytes_moved(2, "float16") / 1e12 * 1000
        assert operator.lower_bound_ms(2, "float16", RATES) == pytest.approx(max(arithmetic, traffic))
        assert operator.bytes_moved(1, "float32") > operator.bytes_moved(1, "float16")


def test_beside_8_bit_weights_activations_are_counted_in_float16() -> None:
    for operator in layer_operators(CONFIG_F, (64,)):
        s = operator.spec
        weights = s.in_channels * s.out_channels * s.kernel**2 if operator.name == "modulated_conv2d" else 0
        assert operator.bytes_moved(3, "int8", ACTIVATION_DTYPES["int8"]) == operator.bytes_moved(3, "float16") - weights
        assert operator.bytes_moved(3, "fp8") == operator.bytes_moved(3, "int8") < operator.bytes_moved(3, "float16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the test is about machines without a GPU")
def test_without_a_gpu_only_lower_bounds_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--dtypes",
        "float16,float32,int8",
        "--batches",
        "1,4",
        "--resolutions",
        "8,1024",
        "--json",
        str(tmp_path / "k.json"),
    ]
    assert main([*arguments, "--tflops", "100", "--bandwidth", "1000"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("no CUDA GPU here, so nothing was measured.")
    document = read_results(tmp_path / "k.json")
    assert document["rows"] == []
    bounds = document["conditions"]["floors"]
    assert len(bounds) == 2 * 2 * 10 + 2 * 4 == len(out.splitlines()) - 2
    for bound in bounds:
        assert bound["floor_ms"] == pytest.approx(max(bound["gflop"] / 100, bound["mb"] / 1000), rel=1e-5)
    assert {bound["layer"] for bound in bounds if bound["dtype"] == "int8"} == {
        "b8.conv0",
        "b8.conv1",
        "b1024.conv0",
        "b1024.conv1",
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ["--dtypes", "int4"], ["--resolutions", "48"], ["--resolutions", "x"], ["--batches", "0"], ["--batches", ""],
        ["--seconds", "0"], ["--tflops", "-1"], ["--bandwidth", "0"], ["--tflops", "nan"], ["--dtypes", ""],
        ["--json", "/proc/nowhere/f.json"],
    ],
    ids=str,
)  # fmt: skip
def test_wrong_arguments_are_one_line_and_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("wrong", [torch.tensor([1.0, 2.5]), torch.tensor([1.0, float("nan")])], ids=["off", "unwritten"])
def test_a_form_with_a_wrong_result_is_not_timed(monkeypatch: pytest.MonkeyPatch, wrong: torch.Tensor) -> None:
    right = torch.tensor([1.0, 2.0])
    monkeypatch.setattr(layers_module, "operator_forms", lambda *_: ({"eager": lambda: right, "kernel": lambda: wrong}, right))
    operator = LayerOperator("bias_act", "layer", TINY.layers()[0])
    with pytest.raises(BackendError, match="kernel of layer in float32 is wrong"):
        measure(operator, 1, "float32", RATES, 0.001, "cpu")


@pytest.mark.long
def test_a_dry_run_measures_every_form_of_every_kernel(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "stylert.benchmarks.kernels.layers", "--dry-run", "--batches", "1", "--seconds", "0.001"]
    arguments = ["--resolutions", "8", "--dtypes", "float16,int8,fp8", "--json", str(tmp_path / "k.json")]
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    document = read_results(tmp_path / "k.json")
    expected = {
        (operator.layer, "float16", form)
        for operator in layer_operators(TINY, (8,))
        for form in FORMS
        if form != "cudnn" or operator.name != "bias_act"  # bias_act has no convolution
    }
    expected |= {(f"b8.conv{k}", dtype, form) for k in (0, 1) for dtype in ("int8", "fp8") for form in FORMS[:3]}
    assert {(row["work"]["layer"], row["work"]["dtype"], row["setup"]["form"]) for row in document["rows"]} == expected
    for row in document["rows"]:
        assert row["distribution"]["runs"] == sum(map(len, row["rounds"])) >= 1
        assert row["details"]["error"] <= TOLERANCE[row["work"]["dtype"]]
        shares = row["details"]["of_tflops"], row["details"]["of_bandwidth"]
        assert row["floor"] / row["value"] == pytest.approx(max(shares), rel=1e-4)
        assert any("figures mean nothing" in remark for remark in row["remarks"])
    assert "figures mean nothing" in document["title"]
    assert len(done.stdout.splitlines()) == 2 + len(list(layer_operators(TINY, (8,)))) + 4
