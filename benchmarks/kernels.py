"""The GPU kernels layer by layer against what PyTorch offers: `python -m stylert.benchmarks.kernels`.

Every layer of StyleGAN2's config F at 1024 px, in each dtype and batch, in four forms that compute the same numbers:

- `kernel`: ours, weights prepared ahead, as an engine would have them;
- `eager`: the operator's definition in PyTorch, as it is written;
- `compile`: `torch.compile` of that definition;
- `cudnn`: cuDNN's convolution on channels-last tensors, and each pointwise step by itself.

A form is timed only after its result has been compared with the definition in float32. Times are the median of single
calls between CUDA events, each with a cold L2 cache; the floor is the larger of arithmetic and traffic at the rates of a
matrix product and a copy measured in the same run. Arithmetic is what the definition needs, a transposed convolution
counting at its input size; traffic is every operand once. cuDNN multiplies float32 in TF32, PyTorch's default.

On a machine without a GPU only the floors are printed, from the figures of an H100 or those given.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from stylert.benchmarks.kernel_forms import KERNEL_FORMS, Call
from stylert.benchmarks.roofline import Case, Ceiling, cases
from stylert.runtime.atomic import atomic_file
from stylert.runtime.errors import BackendError, InputError, StylertError
from stylert.train.config import GeneratorConfig

CONFIG_F = GeneratorConfig(1024)
#: What a dry run measures instead: every kind of layer, small enough for Triton's interpreter.
TINY = GeneratorConfig(8, channel_base=48, channel_max=8)

#: Rates of an H100 SXM, TFLOP/s by dtype and GB/s: half precision and memory as measured by others, float32 its data sheet.
H100_TFLOPS = {"float16": 790.0, "bfloat16": 790.0, "float32": 67.0}
H100_BANDWIDTH = 3000.0

#: Largest error that a form may have, relative to the largest value of the float32 definition.
TOLERANCE = {"float16": 1e-2, "bfloat16": 8e-2, "float32": 5e-3}
FORMS = ("kernel", "eager", "compile", "cudnn")
#: Written between calls, so that none finds its operands in the L2 cache.
FLUSH_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Row:
    """One form of one case. `share` is floor over measured time; `error` is relative to the definition in float32."""

    layer: str
    kernel: str
    dtype: str
    batch: int
    form: str
    runs: int
    ms: float
    min_ms: float
    tflops: float
    gbps: float
    floor_ms: float
    share: float
    error: float


def measure(case: Case, batch: int, dtype: str, ceiling: Ceiling, seconds: float, device: str) -> list[Row]:
    """Every form of one case, checked and timed for about `seconds` each.

    Raises:
        BackendError: a form's result is not the definition's.
    """
    import torch

    forms, reference = KERNEL_FORMS[case.kernel](case, batch, getattr(torch, dtype), device)
    rows = []
    for form, call in forms.items():
        result = call().float()
        error = float((result - reference).abs().max() / reference.abs().max())
        if not error <= TOLERANCE[dtype]:  # NaN is no result either
            raise BackendError(f"{form} of {case.layer} in {dtype} is wrong: relative error {error:.2g}")
        times = time_calls(call, seconds, device)
        ms = statistics.median(times)
        floor = ceiling.floor_ms(case, batch, dtype)
        rates = case.flops(batch) / ms / 1e9, case.bytes(batch, dtype) / ms / 1e6
        rows.append(
            Row(case.layer, case.kernel, dtype, batch, form, len(times), ms, min(times), *rates, floor, floor / ms, error)
        )
    return rows


def measured_ceiling(dtypes: Sequence[str], seconds: float, device: str, size: int = 8192) -> Ceiling:
    """Rates of a `size`-cubed matrix product per dtype, and of copying 16 times as many bytes as it has elements."""
    import torch

    tflops = {}
    for dtype in dtypes:
        a, b = (torch.randn(size, size, device=device, dtype=torch.float32).to(getattr(torch, dtype)) for _ in range(2))
        ms = min(time_calls(partial(torch.mm, a, b, out=torch.empty_like(a)), seconds, device))
        tflops[dtype] = 2 * size**3 / ms / 1e9
    source = torch.empty(16 * size * size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    ms = min(time_calls(lambda: target.copy_(source), seconds, device))
    return Ceiling(tflops, 2 * source.numel() / ms / 1e6, "measured in this run")


def table(rows: Sequence[Row]) -> str:
    """One line per layer, dtype and batch: the floor, and each form's milliseconds with its share of the floor's rate."""
    lines = [["layer", "kernel", "dtype", "batch", "floor ms", *(f"{form} ms" for form in FORMS), "TFLOP/s", "GB/s"]]
    for key in dict.fromkeys((r.layer, r.kernel, r.dtype, r.batch) for r in rows):
        mine = {r.form: r for r in rows if (r.layer, r.kernel, r.dtype, r.batch) == key}
        ours = mine["kernel"]
        cells = [f"{mine[form].ms:.4f} ({mine[form].share:.0%})" if form in mine else "" for form in FORMS]
        lines.append([*map(str, key), f"{ours.floor_ms:.4f}", *cells, f"{ours.tflops:.1f}", f"{ours.gbps:.0f}"])
    return aligned(lines)


def floor_table(
    chosen: Sequence[Case], dtypes: Sequence[str], batches: Sequence[int], ceiling: Ceiling
) -> list[dict[str, Any]]:
    """The arithmetic floor of every case."""
    return [
        {
            "layer": case.layer, "kernel": case.kernel, "dtype": dtype, "batch": batch, "gflop": case.flops(batch) / 1e9,
            "mb": case.bytes(batch, dtype) / 1e6, "floor_ms": ceiling.floor_ms(case, batch, dtype),
        }
        for dtype in dtypes
        for batch in batches
        for case in chosen
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit status 2 on a wrong argument or a wrong result, 0 on a machine without a GPU."""
    parser = argparse.ArgumentParser(prog="python -m stylert.benchmarks.kernels", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--resolutions", default="", help="comma-separated, default: all of 4 to 1024")
    parser.add_argument("--dtypes", default="float16", help=f"comma-separated, of {', '.join(TOLERANCE)}")
    parser.add_argument("--batches", default="1,8", help="comma-separated")
    parser.add_argument("--seconds", type=float, default=0.3, help="to spend on each form of each case")
    parser.add_argument("--budget", type=float, default=1e9, help="seconds after which nothing new is begun")
    parser.add_argument("--json", type=Path, help="write every figure here too")
    parser.add_argument("--tflops", type=float, help="rate for the floors on a machine without a GPU, default: an H100's")
    parser.add_argument("--bandwidth", type=float, help="the same for memory, GB/s")
    parser.add_argument("--dry-run", action="store_true", help="run everything, tiny and on the CPU; the figures mean nothing")
    options = parser.parse_args(arguments)
    try:
        return _run(options)
    except StylertError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    config = TINY if options.dry_run else CONFIG_F
    dtypes = options.dtypes.split(",")
    resolutions, batches = whole_numbers(options.resolutions, "resolutions"), whole_numbers(options.batches, "batches")
    chosen = list(cases(config, resolutions or config.block_resolutions))
    rates = [r for r in (options.tflops, options.bandwidth, options.seconds) if r is not None]
    if unknown := [d for d in dtypes if d not in TOLERANCE]:
        raise InputError(f"unknown dtype {', '.join(unknown)}: choose from {', '.join(TOLERANCE)}")
    if not chosen:
        raise InputError(f"no layer has resolution {options.resolutions}: choose from {config.block_resolutions}")
    if not batches or min(rates) <= 0:
        raise InputError("give at least one batch, and rates and seconds above 0")

    document: dict[str, Any] = {"schema": 1, "config": config.to_dict(), "dry_run": options.dry_run}
    if options.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are imported
    if options.dry_run or has_gpu():
        device = "cpu" if options.dry_run else "cuda"
        ceiling = measured_ceiling(dtypes, options.seconds, device, size=64 if options.dry_run else 8192)
        end, rows = time.perf_counter() + options.budget, []
        for dtype, batch, case in itertools.product(dtypes, batches, chosen):
            if time.perf_counter() > end:
                print(f"{case.layer} {dtype} x{batch}: not begun, the time was up")
                continue
            rows += measure(case, batch, dtype, ceiling, options.seconds, device)
            _write(options.json, document | {"rows": [asdict(row) for row in rows], "ceiling": asdict(ceiling)})
        rates_text = ", ".join(f"{name} {value:.4g} TFLOP/s" for name, value in ceiling.tflops.items())
        print(f"{device_name(device)}: {rates_text}, copy {ceiling.bandwidth:.4g} GB/s ({ceiling.source})")
        print(table(rows))
        document |= {"device": device_name(device), "rows": [asdict(row) for row in rows]}
    else:
        tflops = H100_TFLOPS if options.tflops is None else dict.fromkeys(TOLERANCE, options.tflops)
        given = options.tflops is not None or options.bandwidth is not None
        ceiling = Ceiling(tflops, options.bandwidth or H100_BANDWIDTH, "given" if given else "an H100's figures")
        floors = floor_table(chosen, dtypes, batches, ceiling)
        rates_text = ", ".join(f"{dtype} {tflops[dtype]:g} TFLOP/s" for dtype in dtypes)
        print(
            f"no CUDA GPU here, so nothing was measured. Floors at {rates_text} and {ceiling.bandwidth:g} GB/s ({ceiling.source}):"
        )
        heads = ["layer", "kernel", "dtype", "batch", "GFLOP", "MB", "floor ms"]
        print(aligned([heads, *([str(v) if isinstance(v, str | int) else f"{v:.4f}" for v in f.values()] for f in floors)]))
        document |= {"device": None, "floors": floors}
    _write(options.json, document | {"ceiling": asdict(ceiling)})
    return 0


def _write(path: Path | None, document: dict[str, Any]) -> None:
    if path is not None:
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")


# --- the clock -------------------------------------------------------------------------------------------------------


def time_calls(call: Call, seconds: float, device: str) -> list[float]:
    """Milliseconds of single calls over about `seconds`, after a warm-up."""
    import torch

    flush = torch.empty(FLUSH_BYTES if device == "cuda" else 1, dtype=torch.uint8, device=device)
    once = _cuda_times if device == "cuda" else _cpu_times
    times: list[float] = []
    once(call, flush, 3 if device == "cuda" else 1)
    begin = time.perf_counter()
    while not times or time.perf_counter() - begin < seconds:
        times += once(call, flush, 10 if device == "cuda" else 1)
    return times


def _cuda_times(call: Call, flush: Any, count: int) -> list[float]:
    """While the cache is written over, the next call is queued, so that its launch is not part of its time."""
    import torch

    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(count)]
    for start, end in events:
        flush.zero_()
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in events]


def _cpu_times(call: Call, flush: Any, count: int) -> list[float]:
    times = []
    for _ in range(count):
        flush.zero_()
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return times


def has_gpu() -> bool:
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("triton") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def device_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else "CPU, Triton's interpreter (a dry run: figures mean nothing)"


def whole_numbers(text: str, what: str) -> tuple[int, ...]:
    try:
        values = tuple(int(v) for v in text.split(",") if v)
    except ValueError:
        raise InputError(f"{what} are whole numbers with commas between, not {text!r}") from None
    if any(v < 1 for v in values):
        raise InputError(f"{what} are at least 1, not {text}")
    return values


def aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


if __name__ == "__main__":
    sys.exit(main())
