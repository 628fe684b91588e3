"""The processor and memory of this machine, read from the operating system."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
from pathlib import Path

#: Instruction sets that decide which convolution kernels run: wide vectors, 8-bit and bfloat16 products, matrix tiles.
INSTRUCTION_SETS = (
    "avx2",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "asimdhp",
    "i8mm",
    "bf16",
    "sve",
)


#: Files with the bytes of memory that a container may have, of cgroups version 2 and 1.
CONTAINER_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
#: More threads than this on each core wait for each other. Libraries let waiting threads spin, so that hundreds seem to hang.
THREADS_PER_CORE = 4


def cpu_identity() -> str:
    """The processor's name and a digest of its instruction sets. A CPU engine is built for exactly one identity."""
    fields = _cpuinfo()
    if fields is None:
        return platform.processor() or platform.machine()
    flags = fields.get("flags") or fields.get("Features") or ""
    return f"{fields.get('model name', platform.machine())} [{hashlib.sha256(flags.encode()).hexdigest()[:8]}]"


def cpu_name() -> str:
    """The processor's name, such as `AMD EPYC`."""
    fields = _cpuinfo() or {}
    return fields.get("model name") or platform.processor() or platform.machine()


def instruction_sets() -> list[str] | None:
    """Those of `INSTRUCTION_SETS` that this processor has, or None if the system does not list them."""
    fields = _cpuinfo()
    if fields is None:
        return None
    have = (fields.get("flags") or fields.get("Features") or "").split()
    return [name for name in INSTRUCTION_SETS if name in have]


def usable_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def most_threads() -> int:
    """The most threads of a library that make sense for this process."""
    return THREADS_PER_CORE * usable_cores()


def memory_bytes() -> tuple[int, int] | None:
    """Total and available memory in bytes, or None if the system does not tell."""
    try:
        lines = dict(
            line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines() if ":" in line
        )
        return int(lines["MemTotal"].split()[0]) * 1024, int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def memory_limit_bytes() -> int | None:
    """The most memory that this process can have: all of the machine, or less by a limit of the process or of its container.

    None if the system tells none of these.
    """
    memory = memory_bytes()
    limits = [] if memory is None else [memory[0]]
    for file in CONTAINER_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # `max` is no number
            limits.append(int(file.read_text(encoding="utf-8")))
    if sys.platform != "win32":
        import resource

        soft = (resource.getrlimit(number)[0] for number in (resource.RLIMIT_DATA, resource.RLIMIT_AS))
        limits += [limit for limit in soft if limit != resource.RLIM_INFINITY]
    return min(limits, default=None)


def peak_memory_mib() -> float:
    """Largest resident set size of this process so far, in MiB."""
    try:
        # On Linux a child's getrusage starts at the peak of its parent. VmHWM starts anew with each program.
        line = next(x for x in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if x.startswith("VmHWM:"))
        return round(int(line.split()[1]) / 1024, 1)
    except (OSError, StopIteration):
        import resource

        units_per_mib = 2**20 if sys.platform == "darwin" else 2**10
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / units_per_mib, 1)


def _cpuinfo() -> dict[str, str] | None:
    """The fields of the first processor in `/proc/cpuinfo`, or None on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    return {k.strip(): v.strip() for k, v in fields.items()}
