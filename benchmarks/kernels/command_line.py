"""What the commands that measure kernels have in common: networks, options, errors, the device, the clock, and their results' file.

A GPU that is lent for an hour has PyTorch and Triton and little else, so these commands need nothing else.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from stylert.benchmarks.distribution import describe
from stylert.benchmarks.machine.interference import remarks
from stylert.benchmarks.machine.nvml import GpuWatch
from stylert.benchmarks.machine.roofline import Ceiling
from stylert.benchmarks.schema import Results, Row, write_results
from stylert.core.atomic import check_writable
from stylert.core.errors import BackendError, InputError, StylertError
from stylert.models.stylegan2.config import GeneratorConfig

Call = Callable[[], Any]

CONFIG_F = GeneratorConfig(1024)
#: What a dry run measures instead: every kind of layer, small enough for Triton's interpreter.
TINY = GeneratorConfig(8, channel_base=48, channel_max=8)
#: What the device of a dry run is called, and what each of its rows says of itself.
INTERPRETER = "CPU, Triton's interpreter (a dry run: figures mean nothing)"
DRY_RUN = "dry run: tiny and on a CPU, its figures mean nothing"

#: Largest error that a form of a layer may have, relative to the largest value of the float32 definition, or of another form.
TOLERANCE = {"float16": 1e-2, "bfloat16": 8e-2, "float32": 5e-3, "int8": 1e-2, "fp8": 1e-2}

#: Written between calls, so that none finds its operands in the L2 cache.
FLUSH_BYTES = 256 * 2**20


# --- the command line ------------------------------------------------------------------------------------------------


def command_line(
    name: str, doc: str | None, *, resolutions: str, batches: str, seconds: float, what: str = "on each figure"
) -> argparse.ArgumentParser:
    """The options that all have, with their defaults; `what` says on what the seconds are spent."""
    parser = argparse.ArgumentParser(prog=f"python -m stylert.benchmarks.{name}", description=(doc or "").splitlines()[0])
    parser.add_argument(
        "--resolutions", default=resolutions, help=f"comma-separated, default: {resolutions or 'all of 4 to 1024'}"
    )
    parser.add_argument("--batches", default=batches, help=f"comma-separated, default: {batches}")
    parser.add_argument("--seconds", type=float, default=seconds, help=f"to spend {what}; default: {seconds:g}")
    parser.add_argument("--dry-run", action="store_true", help="run everything, tiny and on the CPU; the figures mean nothing")
    return parser


def run(work: Callable[[argparse.Namespace], int], parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> int:
    """`work` on the options, numbers parsed; exit status 2 and one line on a user's mistake or a wrong result."""
    options = parser.parse_args(arguments)
    try:
        options.resolutions = whole_numbers(options.resolutions, "resolutions")
        options.batches = whole_numbers(options.batches, "batches")
        if not options.batches or not options.seconds > 0:
            raise InputError("give at least one batch, and seconds above 0")
        check_writable(getattr(options, "json", None))
        return work(options)
    except StylertError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def whole_numbers(text: str, what: str) -> tuple[int, ...]:
    """Raises InputError for what is no list of numbers above 0."""
    try:
        values = tuple(int(v) for v in text.split(",") if v)
    except ValueError:
        raise InputError(f"{what} are whole numbers with commas between, not {text!r}") from None
    if any(v < 1 for v in values):
        raise InputError(f"{what} are at least 1, not {text}")
    return values


def chosen_names(text: str, known: Sequence[str], what: str) -> list[str]:
    """Raises InputError for a name that is not known."""
    names = [name for name in text.split(",") if name]
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"unknown {what} {', '.join(unknown)}: choose from {', '.join(known)}")
    return names


def block_resolutions(options: argparse.Namespace) -> tuple[GeneratorConfig, tuple[int, ...]]:
    """The network whose layers are measured, and at which resolutions. Raises InputError for one that it does not have."""
    config = TINY if options.dry_run else CONFIG_F
    if unknown := [str(r) for r in options.resolutions if r not in config.block_resolutions]:
        known = ", ".join(map(str, config.block_resolutions))
        raise InputError(f"no layer has resolution {', '.join(unknown)}: choose from {known}")
    return config, options.resolutions or tuple(config.block_resolutions)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as text in columns."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


# --- the device ------------------------------------------------------------------------------------------------------


def has_gpu() -> bool:
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("triton") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def device_for(options: argparse.Namespace) -> str:
    """`cuda`, or `cpu` for a dry run, whose kernels run in Triton's interpreter. Raises BackendError where there is no GPU."""
    if options.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are imported
        return "cpu"
    if not has_gpu():
        raise BackendError("there is no CUDA GPU here, or no PyTorch with Triton: use --dry-run")
    return "cuda"


def device_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else INTERPRETER


def has_fp8(device: str) -> bool:
    import torch

    return device == "cpu" or torch.cuda.get_device_capability() >= (8, 9)


def measured_ceiling(dtypes: Sequence[str], seconds: float, device: str) -> Ceiling:
    """Rates of an 8192-cubed matrix product per dtype and of copying a GiB, or of something tiny on a CPU."""
    import torch

    size = 8192 if device == "cuda" else 64
    tflops = {}
    for dtype in dtypes:
        a, b = (torch.randn(size, size, device=device) for _ in range(2))
        ms = min(time_calls(_square_product(a, b, dtype), seconds, device))
        tflops[dtype] = 2 * size**3 / ms / 1e9
    source = torch.empty(16 * size * size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    ms = min(time_calls(lambda: target.copy_(source), seconds, device))
    return Ceiling(tflops, 2 * source.numel() / ms / 1e6, f"measured in this run on {device_name(device)}")


def eight_bit_product(a: Any, b: Any) -> Any:
    """`a @ b.T`, summed in int32 or float32: PyTorch's product of 8-bit matrices, both with contiguous rows.

    On a GPU `a` has more than 16 rows, and all other sides are multiples of 16.
    """
    import torch

    if a.dtype == torch.int8:
        return torch._int_mm(a, b.t())
    one = torch.ones((), device=a.device)
    return torch._scaled_mm(a, b.t(), scale_a=one, scale_b=one, out_dtype=torch.float32, use_fast_accum=True)


def _square_product(a: Any, b: Any, dtype: str) -> Call:
    import torch

    if dtype in ("int8", "fp8"):
        narrow = torch.int8 if dtype == "int8" else torch.float8_e4m3fn
        return partial(eight_bit_product, (40 * a).clamp(-127, 127).to(narrow), (40 * b).clamp(-127, 127).to(narrow))
    a, b = (t.to(getattr(torch, dtype)) for t in (a, b))
    return partial(torch.mm, a, b, out=torch.empty_like(a))


# --- the clock -------------------------------------------------------------------------------------------------------


def time_calls(call: Call, seconds: float, device: str) -> list[float]:
    """Milliseconds of single calls over about `seconds`, after a warm-up, each with a cold L2 cache."""
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


# --- results ---------------------------------------------------------------------------------------------------------


def measured_row(
    work: dict[str, Any],
    form: str,
    metric: str,
    samples: Sequence[float],
    floor: float,
    device: str,
    gpu: GpuWatch | None,
    **more: Any,
) -> Row:
    """A row of scenario `kernel` from the samples of one process, in ms where the metric is a time and else in images/s.

    `gpu` is what was seen of the GPU meanwhile, `more` are fields of `Row`.
    """
    found = describe([samples])
    doubts = remarks(found, None) if device == "cuda" else [DRY_RUN]
    if gpu is not None and gpu.throttled:
        doubts.append(f"throttled: GPU, {', '.join(sorted(gpu.throttled))}")
    unit, better = ("images/s", "higher") if metric == "rate" else ("ms", "lower")
    setup = {"backend": "torch", "form": form}
    value = statistics.median(samples)
    return Row("kernel", work, setup, metric, unit, better, value, [list(samples)], found, doubts, floor=floor, **more)


def save(path: Path | None, title: str, name: str, rows: Sequence[Row], ceiling: Ceiling, **conditions: Any) -> None:
    """What is known until now as a document of stylert's benchmarks, where a path was given."""
    if path is not None:
        command = ["python", "-m", f"stylert.benchmarks.{name}", *sys.argv[1:]]
        write_results(Results(title, list(rows), conditions=conditions, command=command, ceiling=asdict(ceiling)), path)
