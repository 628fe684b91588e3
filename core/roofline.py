"""The roofline model: the least time that arithmetic and memory traffic allow at a machine's peak rates.

time >= max(flops / peak TFLOP/s, bytes / peak GB/s)      (Williams et al. 2009)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PeakRates:
    """The highest rates of a machine.

    Attributes:
        tflops: TFLOP/s by dtype (`float32`, `float16`, `bfloat16`, `int8`, `fp8`); for int8 these are TOP/s.
        bandwidth: GB/s of memory, reads and writes together.
        source: The origin of the figures, in words.
    """

    tflops: Mapping[str, float]
    bandwidth: float
    source: str


def lower_bound_ms(flops: float, bytes_moved: float, dtype: str, rates: PeakRates) -> float:
    """The least time of one piece of work.

    Args:
        flops: Operations; a multiplication with an addition counts as two.
        bytes_moved: Bytes read from and written to memory.
        dtype: The format of the multiplications, a key of `rates.tflops`.
        rates: What the machine can do.

    Returns:
        Milliseconds.
    """
    arithmetic_s = flops / (rates.tflops[dtype] * 1e12)
    memory_s = bytes_moved / (rates.bandwidth * 1e9)
    return 1000 * max(arithmetic_s, memory_s)
