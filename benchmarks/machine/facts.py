"""The machine that a number was measured on, and what else was going on there."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from stylert.benchmarks.machine.nvml import gpu_facts
from stylert.core.host import cpu_identity, instruction_sets, usable_cores

PACKAGES = ("stylert", "numpy", "onnx", "onnxruntime", "openvino", "torch", "triton", "tensorrt", "tensorrt-rtx-cu13")


def machine_facts() -> dict[str, Any]:
    """Processor, memory, system and library versions, as JSON values."""
    return {
        "cpu": cpu_identity(),
        "cores": usable_cores(),
        "isa": instruction_sets() or [],
        "memory_gib": round(_memory_bytes() / 2**30, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "gpu": gpu_facts(),
        "packages": {p: v for p in PACKAGES if (v := installed(p)) is not None},
    }


def peak_memory_mib() -> float:
    """Largest resident set of this process so far, MiB."""
    try:
        # Linux's getrusage starts a child at its parent's peak; this counter starts anew with each program.
        line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM:"))
        return round(int(line.split()[1]) / 1024, 1)
    except (OSError, StopIteration):
        import resource

        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10), 1)


def installed(package: str) -> str | None:
    """Its version, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _memory_bytes() -> int:
    try:  # a GPU machine may have nothing but PyTorch
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # not on Windows
        import psutil

        return int(psutil.virtual_memory().total)
