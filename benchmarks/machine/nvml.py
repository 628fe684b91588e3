"""What NVML tells about the first NVIDIA GPU: its state, and over a measurement its energy, power, clocks and memory.

Without NVIDIA's driver every function says None, and without the package `nvidia-ml-py` all but `gpu_facts`, which then asks
`nvidia-smi`; nothing else depends on them.
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
#: NVML's clock event reasons that mean slower than the GPU could be: power cap, hardware and thermal slowdowns, power brake.
THROTTLED = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal",
    0x40: "hardware thermal",
    0x80: "power brake",
}


@dataclass
class GpuWatch:
    """Readings of a measurement. Power in watts, clocks in MHz, memory of this process in MiB, energy in joules."""

    power_w: list[float] = field(default_factory=list)
    sm_mhz: list[float] = field(default_factory=list)
    memory_mib: float | None = None
    throttled: set[str] = field(default_factory=set)
    energy_j: float | None = None


def gpu_facts() -> dict[str, Any] | None:
    """Name, driver, memory, largest clock and power limit of the first GPU; None where there is none."""
    nvml = _nvml()
    if nvml is None:
        return _facts_of_smi()
    handle = nvml.nvmlDeviceGetHandleByIndex(0)
    facts: dict[str, Any] = {"name": _text(nvml.nvmlDeviceGetName(handle)), "driver": _text(nvml.nvmlSystemGetDriverVersion())}
    facts["count"] = int(nvml.nvmlDeviceGetCount())
    facts["memory_mib"] = round(nvml.nvmlDeviceGetMemoryInfo(handle).total / 2**20)
    for name, read in (
        ("max_sm_mhz", lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)),
        ("power_limit_w", lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000),
    ):
        with contextlib.suppress(nvml.NVMLError):  # not every GPU tells everything
            facts[name] = read()
    return facts


@contextlib.contextmanager
def watch_gpu() -> Iterator[GpuWatch | None]:
    """Reads the first GPU every 20 ms in a thread of its own while the block runs."""
    nvml = _nvml()
    if nvml is None:
        yield None
        return
    handle, watch, stop = nvml.nvmlDeviceGetHandleByIndex(0), GpuWatch(), threading.Event()

    def sample() -> None:
        while not stop.is_set():
            _read(nvml, handle, watch)
            stop.wait(SAMPLE_SECONDS)

    begin, started = _total_energy(nvml, handle), time.perf_counter()
    thread = threading.Thread(target=sample, name="stylert-nvml", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        stop.set()
        thread.join()
        end = _total_energy(nvml, handle)
        if begin is not None and end is not None:
            watch.energy_j = end - begin
        elif watch.power_w:  # GPUs before Volta count no energy
            watch.energy_j = sum(watch.power_w) / len(watch.power_w) * (time.perf_counter() - started)


def _facts_of_smi() -> dict[str, Any] | None:
    """The same from the driver's own program."""
    command = [
        "nvidia-smi",
        "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit",
        "--format=csv,noheader,nounits",
    ]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
        name, driver, *values = (word.strip() for word in lines[0].split(","))
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        return None
    facts: dict[str, Any] = {"name": name, "driver": driver, "count": len(lines)}
    for key, value in zip(("memory_mib", "max_sm_mhz", "power_limit_w"), values, strict=False):
        with contextlib.suppress(ValueError):  # "[N/A]": not every GPU tells everything
            facts[key] = float(value)
    return facts


def _read(nvml: Any, handle: Any, watch: GpuWatch) -> None:
    with contextlib.suppress(nvml.NVMLError):
        watch.power_w.append(nvml.nvmlDeviceGetPowerUsage(handle) / 1000)
    with contextlib.suppress(nvml.NVMLError):
        watch.sm_mhz.append(float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)))
    with contextlib.suppress(nvml.NVMLError):
        reasons = int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
        watch.throttled |= {name for bit, name in THROTTLED.items() if reasons & bit}
    with contextlib.suppress(nvml.NVMLError):
        mine = [p.usedGpuMemory for p in nvml.nvmlDeviceGetComputeRunningProcesses(handle) if p.pid == os.getpid()]
        if mine and mine[0] is not None:
            watch.memory_mib = max(watch.memory_mib or 0.0, mine[0] / 2**20)


def _total_energy(nvml: Any, handle: Any) -> float | None:
    try:
        return nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
    except nvml.NVMLError:
        return None


def _nvml() -> Any:
    """NVML, initialised, or None. Initialising again is harmless."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        if nvml.nvmlDeviceGetCount():
            return nvml
    except ImportError:
        return None
    except Exception as e:  # NVMLError, whose class is only there with the package
        if type(e).__name__.startswith("NVMLError"):
            return None
        raise
    return None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
