"""Facts about this machine that every result carries: processor, memory, GPU, system and package versions."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from stylert.benchmarks.machine.nvml import gpu_facts
from stylert.core.machine.host import cpu_identity, instruction_sets, usable_cores

PACKAGES = ("stylert", "numpy", "onnx", "onnxruntime", "openvino", "mnn", "torch", "triton", "tensorrt", "tensorrt-rtx-cu13")


def machine_facts() -> dict[str, Any]:
    """The `machine` part of a results file, as JSON values."""
    versions = {package: installed_version(package) for package in PACKAGES}
    return {
        "cpu": cpu_identity(),
        "cores": usable_cores(),
        "isa": instruction_sets() or [],
        "memory_gib": round(_memory_bytes() / 2**30, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "gpu": gpu_facts(),
        "packages": {package: number for package, number in versions.items() if number is not None},
    }


def installed_version(package: str) -> str | None:
    """Version of an installed package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # Windows has no sysconf
        import psutil

        return int(psutil.virtual_memory().total)
