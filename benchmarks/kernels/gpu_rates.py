"""Peak rates of this GPU, measured with PyTorch: a matrix product for arithmetic, a copy for memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from stylert.benchmarks.kernels.device import device_name
from stylert.benchmarks.kernels.timing import time_calls
from stylert.core.roofline import PeakRates


def measure_gpu_rates(dtypes: Sequence[str], seconds: float, device: str) -> PeakRates:
    """Measure a product of 8192x8192 matrices in each of `dtypes`, and a copy of 1 GiB; tiny ones on a CPU.

    Args:
        dtypes: Names of torch dtypes, `int8` or `fp8`.
        seconds: Time for each rate.
        device: `cuda` or `cpu`.
    """
    import torch

    size = 8192 if device == "cuda" else 64
    tflops = {}
    for dtype in dtypes:
        a, b = (torch.randn(size, size, device=device) for _ in range(2))
        fastest_ms = min(time_calls(_square_product(a, b, dtype), seconds, device))
        tflops[dtype] = 2 * size**3 / fastest_ms / 1e9
    source = torch.empty(16 * size * size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    fastest_ms = min(time_calls(lambda: target.copy_(source), seconds, device))
    return PeakRates(tflops, 2 * source.numel() / fastest_ms / 1e6, f"measured in this run on {device_name(device)}")


def eight_bit_product(a: Any, b: Any) -> Any:
    """`a @ b.T` by PyTorch's product of 8-bit matrices.

    Args:
        a: `[M, K]`, int8 or FP8, with contiguous rows. On a GPU, M is above 16 and K a multiple of 16.
        b: `[N, K]`, like `a`. On a GPU, N is a multiple of 16.

    Returns:
        `[M, N]`, int32 for int8 and float32 for FP8.
    """
    import torch

    if a.dtype == torch.int8:
        return torch._int_mm(a, b.t())
    one = torch.ones((), device=a.device)
    return torch._scaled_mm(a, b.t(), scale_a=one, scale_b=one, out_dtype=torch.float32, use_fast_accum=True)


def _square_product(a: Any, b: Any, dtype: str) -> Callable[[], Any]:
    """A function that multiplies two float32 matrices after rounding them to `dtype`."""
    import torch

    if dtype in ("int8", "fp8"):
        eight_bit = torch.int8 if dtype == "int8" else torch.float8_e4m3fn
        a, b = ((40 * matrix).clamp(-127, 127).to(eight_bit) for matrix in (a, b))
        return partial(eight_bit_product, a, b)
    a, b = (matrix.to(getattr(torch, dtype)) for matrix in (a, b))
    return partial(torch.mm, a, b, out=torch.empty_like(a))
