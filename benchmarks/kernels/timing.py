"""The time of single calls on a GPU, between CUDA events and with a cold L2 cache.

On the CPU of a dry run the same functions use the system's clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

#: Bytes written between two calls, so that no call finds its operands in the L2 cache.
FLUSH_BYTES = 256 * 2**20


def time_calls(call: Callable[[], Any], seconds: float, device: str) -> list[float]:
    """Time single calls for about `seconds`, after a warm-up.

    Returns:
        Milliseconds of each call; at least one.
    """
    import torch

    on_gpu = device == "cuda"
    flush = torch.empty(FLUSH_BYTES if on_gpu else 1, dtype=torch.uint8, device=device)
    time_group = _cuda_times if on_gpu else _cpu_times
    time_group(call, flush, 3 if on_gpu else 1)
    times: list[float] = []
    begin = time.perf_counter()
    while not times or time.perf_counter() - begin < seconds:
        times += time_group(call, flush, 10 if on_gpu else 1)
    return times


def _cuda_times(call: Callable[[], Any], flush: Any, count: int) -> list[float]:
    """Milliseconds of `count` calls. Each call is queued while the flush before it runs, so its launch is not timed."""
    import torch

    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(count)]
    for start, end in events:
        flush.zero_()
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in events]


def _cpu_times(call: Callable[[], Any], flush: Any, count: int) -> list[float]:
    times = []
    for _ in range(count):
        flush.zero_()
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return times
