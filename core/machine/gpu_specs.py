"""Data sheets of NVIDIA GPUs: one GPU for each architecture that the kernels are compiled for.

`GPU_SPECS[90]` is an H100, for compute capability 9.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stylert.core.roofline import PeakRates


@dataclass(frozen=True)
class GpuSpec:
    """One GPU, from its data sheet. Rates are dense: none of them counts on sparse weights.

    Attributes:
        name: Product name.
        sms: Streaming multiprocessors (SMs).
        clock_ghz: Boost clock.
        tflops: TFLOP/s by dtype (TOP/s for int8). `float32` is the rate outside the tensor cores. The other rates are
            those of the tensor cores with float32 (int32) accumulation. A dtype that the GPU lacks is absent.
        tf32x3_tflops: TFLOP/s of float32 products that are made of three TF32 products on the tensor cores.
        bandwidth: GB/s of device memory.
        shared_bytes: Shared memory of one SM.
        warps: Warps that one SM holds at a time.
        l2_bytes_per_clock: Bytes that one SM reads from the L2 cache per clock, while all read. The default is about half of
            the port's width, for GPUs that nobody is known to have measured.
        sustained_tflops: TFLOP/s that a large matrix product was measured to reach, for the dtypes where that is known.
        sustained_bandwidth: GB/s that a copy was measured to reach, or None.
        sustained_source: Who measured the sustained rates.
    """

    name: str
    sms: int
    clock_ghz: float
    tflops: Mapping[str, float]
    tf32x3_tflops: float
    bandwidth: float
    shared_bytes: int
    warps: int
    l2_bytes_per_clock: int = 32
    sustained_tflops: Mapping[str, float] = field(default_factory=dict)
    sustained_bandwidth: float | None = None
    sustained_source: str = ""

    def data_sheet_rates(self) -> PeakRates:
        """The rates of the data sheet: no program is faster."""
        return PeakRates(self.tflops, self.bandwidth, f"data sheet of the {self.name}")

    def sustained_rates(self) -> PeakRates:
        """Measured rates where they are known, and those of the data sheet for the rest."""
        source = f"data sheet of the {self.name}"
        if self.sustained_source:
            measured = ", ".join([*self.sustained_tflops, *(["memory"] if self.sustained_bandwidth else [])])
            source += f"; {measured}: {self.sustained_source}"
        return PeakRates({**self.tflops, **self.sustained_tflops}, self.sustained_bandwidth or self.bandwidth, source)


#: By compute capability, as the number in `sm_90`.
GPU_SPECS: Mapping[int, GpuSpec] = {
    80: GpuSpec(
        name="A100 SXM 80 GB",
        sms=108,
        clock_ghz=1.41,
        tflops={"float32": 19.5, "float16": 312, "bfloat16": 312, "int8": 624},
        tf32x3_tflops=52,
        bandwidth=2039,
        shared_bytes=164 * 1024,
        warps=64,
    ),
    86: GpuSpec(
        name="RTX 3090",
        sms=82,
        clock_ghz=1.70,
        tflops={"float32": 35.6, "float16": 71, "bfloat16": 71, "int8": 284},
        tf32x3_tflops=12,
        bandwidth=936,
        shared_bytes=100 * 1024,
        warps=48,
    ),
    89: GpuSpec(
        name="RTX 4090",
        sms=128,
        clock_ghz=2.52,
        tflops={"float32": 82.6, "float16": 165, "bfloat16": 165, "int8": 660, "fp8": 330},
        tf32x3_tflops=27,
        bandwidth=1008,
        shared_bytes=100 * 1024,
        warps=48,
    ),
    90: GpuSpec(
        name="H100 SXM",
        sms=132,
        clock_ghz=1.76,
        tflops={"float32": 67, "float16": 989, "bfloat16": 989, "int8": 1979, "fp8": 1979},
        tf32x3_tflops=165,
        bandwidth=3352,
        shared_bytes=228 * 1024,
        warps=64,
        l2_bytes_per_clock=24,  # 5.5 TB/s in all, as others measured
        sustained_tflops={"float16": 790, "bfloat16": 790},
        sustained_bandwidth=3000,
        sustained_source="measured by others",
    ),
    120: GpuSpec(
        name="RTX 5090",
        sms=170,
        clock_ghz=2.41,
        tflops={"float32": 104.8, "float16": 209, "bfloat16": 209, "int8": 838, "fp8": 419},
        tf32x3_tflops=35,
        bandwidth=1792,
        shared_bytes=100 * 1024,
        warps=48,
    ),
}
