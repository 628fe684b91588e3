"""Busy cores, throttling and unsteady series get remarks; a steady measurement on a quiet machine gets none."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from stylert.benchmarks.machine import interference, nvml
from stylert.benchmarks.machine.interference import Interference, instability_remarks, merge_interference, watch
from stylert.benchmarks.sample_statistics import describe

CALM = Interference(seconds=3, others=0.01, stolen=0, own=0.9, switches=2, denied=0, thermal=0)


def test_a_steady_run_on_a_quiet_machine_has_no_remark() -> None:
    rounds = [list(1 + 0.01 * np.sin(np.arange(50) * 2.4 + i)) for i in range(5)]
    assert instability_remarks(describe(rounds), CALM) == []


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        ({"others": 0.5}, "unstable: other programs took 50% of the cores"),
        ({"stolen": 0.1}, "unstable: the hypervisor took 10% of the cores"),
        ({"denied": 0.2}, "throttled: a processor quota stopped the process for 20% of the time"),
        ({"thermal": 3}, "throttled: the processor slowed down 3 times from heat"),
        ({"gpu_throttled": ("power cap",)}, "throttled: GPU, power cap"),
    ],
)
def test_each_kind_of_interference_has_its_remark(change: dict[str, float], remark: str) -> None:
    assert instability_remarks(None, Interference(**{**vars(CALM), **change})) == [remark]


def test_each_kind_of_unsteady_series_has_its_remark() -> None:
    steady, slower = [1.0] * 30, [1.3] * 30
    assert [r.split(":")[1].split()[0] for r in instability_remarks(describe([[1.0, 1.5] * 30]), None)] == ["calls"]
    found = " ".join(instability_remarks(describe([steady, slower]), None))
    assert "the last third is +30% from the first" in found
    assert "medians differ by 30%" in found


def fake_counters(monkeypatch: pytest.MonkeyPatch, **changes: float) -> None:
    """Let the counters of a machine with two cores grow by these amounts during a measurement."""
    first = {"time": 10.0, "busy": 100.0, "steal": 1.0, "own": 20.0, "switches": 5.0, "denied": 0.0, "thermal": 0.0}
    readings: Iterator[dict[str, float]] = iter([first, {k: v + changes.get(k, 0.0) for k, v in first.items()}])
    monkeypatch.setattr(interference, "_counters", lambda: next(readings))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)


def test_shares_are_of_the_core_seconds_of_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of the 20 core-seconds, this process used 8 and other programs 11.
    fake_counters(monkeypatch, time=10, busy=19, own=8, steal=0.5, switches=3000, denied=1)
    with watch() as watched:
        pass
    found = watched.interference
    assert found is not None
    assert found.others == pytest.approx(0.55)
    assert found.own == pytest.approx(0.4)
    assert found.stolen == pytest.approx(0.025)
    assert found.switches == 300
    assert found.denied == pytest.approx(0.1)
    assert [r.split(":")[0] for r in instability_remarks(None, found)] == ["unstable", "unstable", "throttled"]


def test_own_work_is_not_interference(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_counters(monkeypatch, time=10, busy=20, own=20)
    with watch() as watched:
        pass
    assert instability_remarks(None, watched.interference) == []


def test_the_counters_of_this_system_never_decrease() -> None:
    first = interference._counters()
    sum(i * i for i in range(200_000))
    second = interference._counters()
    assert all(second[name] >= first[name] for name in first)
    assert second["own"] > first["own"] or second["time"] - first["time"] < 0.05  # the counter has a resolution of 10 ms


def test_merged_shares_are_weighted_by_time_and_events_are_added() -> None:
    other = Interference(
        seconds=1, others=0.41, stolen=0, own=0.1, switches=6, denied=0, thermal=2, gpu_throttled=("power cap",)
    )
    both = merge_interference([CALM, other])
    assert both.seconds == 4
    assert both.others == pytest.approx(0.11)
    assert both.switches == pytest.approx(3)
    assert both.thermal == 2
    assert both.gpu_throttled == ("power cap",)


class NVMLError(Exception):
    """Stands for the exception of pynvml."""


def fake_nvml(**missing: bool) -> ModuleType:
    """A power-capped GPU at 300 W. Its energy counter advances by 60 J at each reading. Functions in `missing` are not supported."""
    module = ModuleType("pynvml")
    energy = iter(range(0, 10**9, 60_000))

    def refuse(*_: object) -> None:
        raise NVMLError("not supported")

    functions = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda i: i,
        "nvmlDeviceGetName": lambda h: b"Some GPU",
        "nvmlSystemGetDriverVersion": lambda: "600.1",
        "nvmlDeviceGetMemoryInfo": lambda h: SimpleNamespace(total=80 * 2**30),
        "nvmlDeviceGetMaxClockInfo": lambda h, c: 1980,
        "nvmlDeviceGetEnforcedPowerLimit": lambda h: 700_000,
        "nvmlDeviceGetPowerUsage": lambda h: 300_000,
        "nvmlDeviceGetClockInfo": lambda h, c: 1700,
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda h: 0x4 | 0x1,
        "nvmlDeviceGetComputeRunningProcesses": lambda h: [SimpleNamespace(pid=os.getpid(), usedGpuMemory=512 * 2**20)],
        "nvmlDeviceGetTotalEnergyConsumption": lambda h: next(energy),
    }
    for name, function in functions.items():
        setattr(module, name, refuse if missing.get(name) else function)
    module.NVMLError, module.NVML_CLOCK_SM = NVMLError, 1  # type: ignore[attr-defined]
    return module


def test_a_gpu_is_watched_through_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml())
    facts = nvml.gpu_facts()
    assert facts is not None
    assert (facts["name"], facts["memory_mib"], facts["max_sm_mhz"], facts["power_limit_w"]) == ("Some GPU", 81920, 1980, 700)
    with nvml.watch_gpu() as found:
        pass
    assert found is not None
    assert found.energy_j == 60
    assert found.throttled <= {"power cap"}
    with watch() as watched:
        pass
    assert watched.gpu is not None


def test_without_an_energy_counter_the_energy_is_power_times_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        sys.modules, "pynvml", fake_nvml(nvmlDeviceGetTotalEnergyConsumption=True, nvmlDeviceGetMaxClockInfo=True)
    )
    assert "max_sm_mhz" not in (nvml.gpu_facts() or {})
    monkeypatch.setattr(nvml, "SAMPLE_SECONDS", 0.001)
    with nvml.watch_gpu() as found:
        assert found is not None
        while not found.power_w or found.memory_mib is None:
            pass
    assert found.energy_j is not None
    assert found.energy_j > 0
    assert found.memory_mib == 512
    assert set(found.power_w) == {300}


def test_without_a_driver_there_are_no_facts_and_no_readings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pynvml", None)  # type: ignore[arg-type]
    assert nvml.gpu_facts() is None
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(nvmlInit=True))
    assert nvml.gpu_facts() is None
    with nvml.watch_gpu() as found:
        assert found is None


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_without_the_package_the_facts_come_from_nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pynvml", None)  # type: ignore[arg-type]
    program.write_text("#!/bin/sh\necho 'Some GPU, 600.1, 8192, 1980, [N/A]'\necho 'Some GPU, 600.1, 8192, 1980, 300.00'\n")
    program.chmod(0o755)
    assert nvml.gpu_facts() == {"name": "Some GPU", "driver": "600.1", "count": 2, "memory_mib": 8192, "max_sm_mhz": 1980}
    for wrong in ("exit 9", "echo", "echo 'No devices were found'"):
        program.write_text(f"#!/bin/sh\n{wrong}\n")
        assert nvml.gpu_facts() is None
