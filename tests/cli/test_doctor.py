"""`stylert doctor` describes this machine correctly, and names the command that installs each missing part."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from stylert.cli import doctor
from stylert.cli import main as cli
from stylert.core.errors import BackendError
from stylert.core.machine.devices import Driver, Gpu
from stylert.core.machine.host import cpu_identity, cpu_name, instruction_sets, memory_bytes, usable_cores
from stylert.runtime.backends import BACKENDS, available_backends, backend


def run(monkeypatch: pytest.MonkeyPatch, *args: object) -> int | None:
    monkeypatch.setattr(sys, "argv", ["stylert", "doctor", *map(str, args)])
    with pytest.raises(SystemExit) as e:
        cli.main()
    return e.value.code  # type: ignore[return-value]


def states(facts: dict) -> dict[str, str]:
    return {b["name"]: b["state"] for b in facts["backends"]}


def test_the_printed_and_the_written_facts_are_those_of_this_machine(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(monkeypatch, "--json", tmp_path / "doctor.json") == 0
    out = capfd.readouterr().out
    facts = json.loads((tmp_path / "doctor.json").read_text())
    assert facts["python"]["version"] == platform.python_version() == sys.version.split()[0]
    assert facts["cpu"]["cores"] == len(os.sched_getaffinity(0))
    assert list(states(facts)) == list(BACKENDS)
    runs = [name for name, state in states(facts).items() if state == "runs"]
    assert [name for name in runs if name != "torch" or facts["gpu"]["gpus"]] == available_backends()
    versions = {b["name"]: b["version"] for b in facts["backends"]}
    assert versions["onnxruntime"] == version("onnxruntime")
    for name in (*BACKENDS, version("onnxruntime"), platform.python_version()):
        assert name in out
    for entry in facts["backends"] + facts["packages"]:
        if entry["version"] is None:
            assert entry["install"].startswith(("pip install 'stylert[", "pip uninstall -y onnxruntime; pip install"))
            assert entry["install"] in out


def test_a_missing_backend_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("openvino", "tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)
    facts = {b["name"]: b for b in doctor.findings()["backends"]}
    for name in ("openvino", "tensorrt", "tensorrt-rtx"):
        assert facts[name]["state"] == "missing"
        assert facts[name]["install"] == f"pip install 'stylert[{name}]'"
    assert facts["onnxruntime"]["state"] == "runs"


def test_a_broken_installation_is_reported_beside_the_working_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise BackendError("openvino is installed but does not import")

    monkeypatch.setattr(backend("openvino"), "version", fail)
    facts = {b["name"]: b for b in doctor.findings()["backends"]}
    assert facts["openvino"]["state"] == "broken"
    assert "does not import" in facts["openvino"]["note"]
    assert facts["onnxruntime"]["state"] == "runs"


def test_gpus_are_shown_with_their_architecture(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    gpu = Gpu(0, "Some GPU", (8, 9), 24 * 2**30)
    monkeypatch.setattr(doctor, "find_gpus", lambda: Driver("13.1", (gpu,), None))
    monkeypatch.setattr("stylert.runtime.backends.tensorrt_rtx.find_gpus", lambda: Driver("13.1", (gpu,), None))
    pytest.importorskip("tensorrt_rtx")
    assert run(monkeypatch) == 0
    out = capfd.readouterr().out
    assert "gpu 0: Some GPU, sm_89, 24.0 GiB, CUDA 13.1" in out
    assert states(doctor.findings())["tensorrt-rtx"] == "runs"


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="reads Linux's description of the processor")
def test_the_processor_is_named_as_in_the_key_of_engines() -> None:
    assert cpu_identity().startswith(cpu_name())
    flags = Path("/proc/cpuinfo").read_text()
    for name in instruction_sets() or []:
        assert name in flags
    assert usable_cores() >= 1
    total, available = memory_bytes() or (0, 0)
    assert total >= available > 0


def test_unknown_facts_of_the_system_are_no_error(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("stylert.core.machine.host._cpuinfo", lambda: None)
    monkeypatch.setattr(doctor, "memory_bytes", lambda: None)
    assert run(monkeypatch) == 0
    assert "instruction sets unknown" in capfd.readouterr().out
