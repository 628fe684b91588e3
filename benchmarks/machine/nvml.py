"""Readings of the first NVIDIA GPU through NVML: its facts, and its energy, power, clocks and memory during a measurement.

Every function returns None without NVIDIA's driver. Without the package `nvidia-ml-py`, `gpu_facts` asks the program
`nvidia-smi` instead, and nothing is read during a measurement.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

SAMPLE_SECONDS = 0.02
#: Bits of NVML's clock event reasons that lower the clocks.
THROTTLE_REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal",
    0x40: "hardware thermal",
    0x80: "power brake",
}


@dataclass
class GpuWatch:
    """Readings during one measurement. Power and clocks hold one value per sample.

    Attributes:
        power_w: Power, in watts.
        sm_mhz: Clock of the multiprocessors, in MHz.
        memory_mib: Largest memory of this process on the GPU, in MiB.
        throttled: Names of the `THROTTLE_REASONS` seen.
        energy_j: Energy of the whole measurement, in joules.
    """

    power_w: list[float] = field(default_factory=list)
    sm_mhz: list[float] = field(default_factory=list)
    memory_mib: float | None = None
    throttled: set[str] = field(default_factory=set)
    energy_j: float | None = None


def gpu_facts() -> dict[str, Any] | None:
    """Name, driver, number of GPUs, memory, largest clock and power limit of the first GPU. None without a GPU.

    A GPU that does not report its clock or its power limit has no such entry.
    """
    nvml = _nvml()
    if nvml is None:
        return _facts_from_nvidia_smi()
    handle = nvml.nvmlDeviceGetHandleByIndex(0)
    facts: dict[str, Any] = {
        "name": _text(nvml.nvmlDeviceGetName(handle)),
        "driver": _text(nvml.nvmlSystemGetDriverVersion()),
        "count": int(nvml.nvmlDeviceGetCount()),
        "memory_mib": round(nvml.nvmlDeviceGetMemoryInfo(handle).total / 2**20),
    }
    with contextlib.suppress(nvml.NVMLError):
        facts["max_sm_mhz"] = nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)
    with contextlib.suppress(nvml.NVMLError):
        facts["power_limit_w"] = nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000
    return facts


@contextlib.contextmanager
def watch_gpu() -> Iterator[GpuWatch | None]:
    """Read the first GPU every `SAMPLE_SECONDS`, in another thread, while the block runs. Yields None without NVML."""
    nvml = _nvml()
    if nvml is None:
        yield None
        return
    handle, watch, stop = nvml.nvmlDeviceGetHandleByIndex(0), GpuWatch(), threading.Event()

    def sample() -> None:
        while not stop.is_set():
            _read(nvml, handle, watch)
            stop.wait(SAMPLE_SECONDS)

    first_energy, start = _total_energy(nvml, handle), time.perf_counter()
    thread = threading.Thread(target=sample, name="stylert-nvml", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        stop.set()
        thread.join()
        last_energy = _total_energy(nvml, handle)
        if first_energy is not None and last_energy is not None:
            watch.energy_j = last_energy - first_energy
        elif watch.power_w:  # GPUs before Volta have no energy counter
            watch.energy_j = sum(watch.power_w) / len(watch.power_w) * (time.perf_counter() - start)


def _facts_from_nvidia_smi() -> dict[str, Any] | None:
    command = [
        "nvidia-smi",
        "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit",
        "--format=csv,noheader,nounits",
    ]
    try:
        lines = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=20, check=True
        ).stdout.splitlines()
        name, driver, *values = (word.strip() for word in lines[0].split(","))
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        return None
    facts: dict[str, Any] = {"name": name, "driver": driver, "count": len(lines)}
    for key, value in zip(("memory_mib", "max_sm_mhz", "power_limit_w"), values, strict=False):
        with contextlib.suppress(ValueError):  # "[N/A]"
            facts[key] = float(value)
    return facts


def _read(nvml: Any, handle: Any, watch: GpuWatch) -> None:
    """Add one sample of everything that this GPU reports."""
    with contextlib.suppress(nvml.NVMLError):
        watch.power_w.append(nvml.nvmlDeviceGetPowerUsage(handle) / 1000)
    with contextlib.suppress(nvml.NVMLError):
        watch.sm_mhz.append(float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)))
    with contextlib.suppress(nvml.NVMLError):
        reasons = int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
        watch.throttled |= {name for bit, name in THROTTLE_REASONS.items() if reasons & bit}
    with contextlib.suppress(nvml.NVMLError):
        processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        used = next((p.usedGpuMemory for p in processes if p.pid == os.getpid()), None)
        if used is not None:
            watch.memory_mib = max(watch.memory_mib or 0.0, used / 2**20)


def _total_energy(nvml: Any, handle: Any) -> float | None:
    """Joules since the driver was loaded."""
    try:
        return nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
    except nvml.NVMLError:
        return None


def _nvml() -> Any:
    """The initialised module `pynvml`, or None."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        if nvml.nvmlDeviceGetCount():
            return nvml
    except ImportError:
        return None
    except Exception as e:  # NVMLError cannot be named before the import succeeds
        if type(e).__name__.startswith("NVMLError"):
            return None
        raise
    return None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
