"""Memory of freed arrays is kept for the next ones, on Linux with glibc."""

from __future__ import annotations

import ctypes
import sys

#: Parameters of glibc's `mallopt`, from its `malloc.h`.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Keep the memory that this process frees, for its next allocations.

    PyTorch allocates each tensor on a CPU anew. From 32 MiB on, glibc maps it anew as well and unmaps it afterwards, and the
    kernel clears each of its pages at the first write. A training step at 256 px took a third of its time for this: see
    docs/decisions/core-freed-memory.md. Afterwards the process keeps its largest amount of memory until it ends.

    Returns:
        Whether the allocator took the settings. Others than glibc have not got them, and nothing changes there.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    # No mappings for single allocations, and no memory at the top of the heap is given back.
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))
