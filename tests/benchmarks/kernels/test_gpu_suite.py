"""Every stage of the GPU suite runs on a CPU, and each command refuses wrong arguments."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from stylert.benchmarks.kernels import autotune, trace, warm_up
from stylert.benchmarks.kernels import whole_network as generator
from stylert.benchmarks.kernels.network_forms import PEERS
from stylert.benchmarks.kernels.parity import __main__ as parity
from stylert.benchmarks.machine.lower_bounds import fused_network_lower_bound
from stylert.benchmarks.schema import read_results
from stylert.core.roofline import PeakRates
from stylert.models.stylegan2.config import GeneratorConfig
from stylert.plugins.triton.tiles import read_table

SUITE = Path(__file__).parents[3] / "benchmarks" / "gpu_suite.sh"


def run(*command, **environment):
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | {
        k: str(v) for k, v in environment.items()
    }
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, env=env)


@pytest.mark.long
def test_a_dry_run_completes_every_stage_and_a_second_one_skips_them(tmp_path):
    done = run("bash", SUITE, tmp_path, "--dry-run", "--seconds", "3000", PYTHON=sys.executable)
    assert done.returncode == 0, done.stdout + done.stderr
    checks = json.loads((tmp_path / "stages" / "parity.json").read_text())["rows"]
    assert all(row["ok"] for row in checks)
    kernels = {row["kernel"] for row in checks}
    assert {"upfirdn2d", "bias_act", "torgb", "modulated_conv2d rgb", "modulated_conv2d rgb int8"} <= kernels
    assert read_table(tmp_path / "tiles" / "sm_0.json")
    rows = read_results(tmp_path / "results.json")["rows"]
    forms = {(row["setup"].get("form"), row["work"].get("precision")) for row in rows}
    stylert = {("kernels", "fp16"), ("kernels_host", "fp16"), ("kernels, measured tiles", "fp16"), ("kernels", "int8")}
    assert stylert | {(peer, "fp16") for peer in PEERS} <= forms
    assert {"float16", "int8", "fp8"} <= {row["work"].get("dtype") for row in rows}
    trace = json.loads((tmp_path / "stages" / "trace.json").read_text())["traces"][0]
    assert {"b4.conv1 b4.torgb", "b8.conv0", "b8.conv1 b8.torgb"} <= {name for name, _ in trace["nodes"]}
    backends = json.loads((tmp_path / "stages" / "backends.json").read_text())["backends"]
    assert {row["backend"] for row in backends if row["ok"]} == {"onnxruntime", "torch"}
    assert "== parity\n" in (tmp_path / "log.txt").read_text()
    again = run("bash", SUITE, tmp_path, "--dry-run", PYTHON=sys.executable)
    assert again.returncode == 0
    assert again.stdout.count(" before\n") == 11


def test_the_suite_refuses_a_machine_without_a_gpu_and_unknown_options(tmp_path):
    done = run("bash", SUITE, tmp_path, PYTHON=sys.executable, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert "no CUDA GPU" in done.stderr
    assert run("bash", SUITE, "--fast", PYTHON=sys.executable).returncode == 2


def test_the_suite_names_the_packages_that_are_missing(tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # without installed packages
    python.chmod(0o755)
    done = run("bash", SUITE, tmp_path / "out", "--dry-run", PYTHON=python)
    assert done.returncode == 2
    assert "missing: torch triton" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("autotune", ["--model"], "--arch"), ("autotune", ["--model", "--arch", "sm_70"], "sm_80"),
        ("autotune", ["--dry-run"], "--out"), ("autotune", ["--dry-run", "--dtypes", "float64"], "float64"),
        ("autotune", ["--dry-run", "--seconds", "0"], "above 0"), ("autotune", ["--dry-run", "--resolutions", "7"], "7"),
        ("autotune", ["--model", "--arch", "sm_80", "--dtypes", "fp8"], "no FP8"),
        ("autotune", ["--model", "--arch", "sm_80", "--dtypes", "bfloat16"], "bfloat16"),
        ("generator", ["--dry-run", "--precisions", "fp12"], "fp12"),
        ("generator", ["--dry-run", "--peers", "onnx"], "onnx"),
        ("generator", ["--dry-run", "--batches", "x"], "batches"),
        ("parity", ["--dry-run", "--cases", "0"], "one case"), ("parity", ["--dry-run", "--seed", "-1"], "seed"),
        ("parity", ["--dry-run", "--json", "/proc/nowhere/f"], "cannot write"),
        ("autotune", ["--model", "--arch", "sm_80", "--out", "/proc/nowhere"], "cannot write"),
        ("parity", ["--dry-run", "--budget", "0"], "above 0"), ("trace", ["--dry-run", "--precisions", "fp12"], "fp12"),
        ("trace", ["--dry-run", "--json", "/proc/nowhere/f"], "cannot write"),
        ("warm_up", ["--dry-run", "--jobs", "0"], "one job"), ("warm_up", ["--dry-run", "--precisions", ""], "one precision"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_arguments_are_one_line_and_status_2(capsys, module, arguments, message):
    mains = {
        "autotune": autotune.main, "generator": generator.main, "parity": parity.main, "trace": trace.main,
        "warm_up": warm_up.main,
    }  # fmt: skip
    assert mains[module](arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert len(error.splitlines()) == 1


def test_without_a_gpu_nothing_is_measured(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for main in (autotune.main, generator.main, parity.main, trace.main, warm_up.main):
        assert main([]) == 2
        assert "no CUDA GPU" in capsys.readouterr().err


def test_the_fused_lower_bound_of_config_f_is_its_macs_or_its_traffic():
    config, tflops = GeneratorConfig(1024), {"float16": 790.0, "float32": 67.0, "int8": 1500.0}
    bound = partial(fused_network_lower_bound, config)
    for batch, precision, rate in ((1, "fp16", 790), (8, "fp16", 790), (1, "fp32", 67), (4, "int8", 1500)):
        fast_memory = PeakRates(tflops, 1e9, "given")
        assert bound(batch=batch, precision=precision, rates=fast_memory) == pytest.approx(
            batch * 2 * config.macs() / (rate * 1e9)
        )
    # At 3 TB/s 8-bit products wait for the float16 activations. All but the last are written once and read once.
    activations = sum(
        s.in_channels * (s.resolution // s.up) ** 2 + s.out_channels * s.resolution**2
        for s in config.layers()
        if s.kind == "conv"
    )
    activations -= 32 * 1024**2
    weights = sum(s.in_channels * s.out_channels * 9 for s in config.layers() if s.kind == "conv")
    moved = 2 * activations + weights + 3 * 1024**2
    expected = pytest.approx(max(moved / 3e9, 2 * config.macs() / 1500e9))
    assert bound(batch=1, precision="int8", rates=PeakRates(tflops, 3000.0, "given")) == expected
