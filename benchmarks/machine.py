"""The machine that a number was measured on, and what else was going on there."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from stylert.runtime.host import cpu_identity

PACKAGES = ("stylert", "numpy", "onnx", "onnxruntime", "openvino", "torch", "tensorrt", "tensorrt-rtx-cu13")
#: Instruction sets that decide which kernels run.
ISA = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "amx_int8", "asimd", "sve")


def machine_facts() -> dict[str, Any]:
    """Processor, memory, system and library versions, as JSON values."""
    import psutil

    return {
        "cpu": cpu_identity(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "isa": _isa(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {p: v for p in PACKAGES if (v := _version(p)) is not None},
    }


def busy_fraction(seconds: float = 0.5) -> float:
    """Share of all cores that other work uses, measured over `seconds` while this process sleeps."""
    import psutil

    return round(psutil.cpu_percent(interval=seconds) / 100, 3)


def peak_memory_mib() -> float:
    """Largest resident set of this process so far, MiB."""
    try:
        # Linux's getrusage starts a child at its parent's peak; this counter starts anew with each program.
        line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM:"))
        return round(int(line.split()[1]) / 1024, 1)
    except (OSError, StopIteration):
        import resource

        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _isa() -> list[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    line = next((x for x in text.splitlines() if x.startswith(("flags", "Features"))), "")
    return [i for i in ISA if i in line.split()]
