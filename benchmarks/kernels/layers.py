"""The GPU kernels layer by layer against what PyTorch offers: `python -m stylert.benchmarks.kernels.layers`.

Every layer of StyleGAN2's config F at 1024 px, in each dtype and batch, in forms that compute the same numbers:

- `kernel`: ours, weights prepared ahead, as an engine would have them;
- `eager`: the operator's definition in PyTorch, as it is written;
- `compile`: `torch.compile` of that definition;
- `cudnn`: cuDNN's convolution on channels-last tensors, and each pointwise step by itself.

int8 and fp8 are the 3x3 convolutions, with float16 activations. PyTorch has no convolution in 8 bits on a GPU: its definition gathers
the rounded activations of each pixel, multiplies matrices in 8 bits, and applies the rest; there is no `cudnn` form.

A form is timed only after its result has been compared with the definition in float32. Times are the median of single
calls between CUDA events, each with a cold L2 cache; the floor is the larger of arithmetic and traffic at the rates of a
matrix product and a copy measured in the same run. Arithmetic is what the definition needs, a transposed convolution
counting at its input size; traffic is every operand once. cuDNN multiplies float32 in TF32, PyTorch's default.

`--json` writes a result that `stylert bench compare` and `stylert bench report` read. On a machine without a GPU only the floors are
printed, from the figures of an H100 or those given.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stylert.benchmarks.kernels.command_line import (
    TOLERANCE,
    aligned,
    block_resolutions,
    chosen_names,
    command_line,
    device_for,
    device_name,
    has_fp8,
    has_gpu,
    measured_ceiling,
    measured_row,
    run,
    save,
    time_calls,
)
from stylert.benchmarks.kernels.forms import forms_of
from stylert.benchmarks.machine.nvml import watch_gpu
from stylert.benchmarks.machine.roofline import Case, Ceiling, cases
from stylert.benchmarks.schema import Row
from stylert.core.errors import BackendError, InputError

#: Rates of an H100 SXM, TFLOP/s by dtype and GB/s: half precision and memory as measured by others, the rest its data sheet.
H100_TFLOPS = {"float16": 790.0, "bfloat16": 790.0, "float32": 67.0, "int8": 1979.0, "fp8": 1979.0}
H100_BANDWIDTH = 3000.0

FORMS = ("kernel", "eager", "compile", "cudnn")
#: What activations are beside 8-bit weights, in memory.
ACTIVATIONS = {"int8": "float16", "fp8": "float16"}


def works(chosen: Sequence[Case], dtypes: Sequence[str], batches: Sequence[int]) -> list[tuple[str, int, Case]]:
    """What there is to measure: in 8 bits only convolutions."""
    return [
        (dtype, batch, case)
        for dtype, batch, case in itertools.product(dtypes, batches, chosen)
        if dtype not in ACTIVATIONS or (case.kernel == "modulated_conv2d" and case.spec.kind == "conv")
    ]


def work_of(case: Case, batch: int, dtype: str) -> dict[str, Any]:
    """What is computed, in words: rows with the same are comparable."""
    s = case.spec
    shape = f"{s.in_channels} to {s.out_channels} channels, {s.resolution} px"
    return {"kernel": case.kernel, "layer": case.layer, "shape": shape, "dtype": dtype, "batch": batch}


def floor_of(case: Case, batch: int, dtype: str, ceiling: Ceiling) -> float:
    return ceiling.floor_ms(case, batch, dtype, ACTIVATIONS.get(dtype))


def measure(case: Case, batch: int, dtype: str, ceiling: Ceiling, seconds: float, device: str) -> list[Row]:
    """Every form of one case, checked and timed for about `seconds` each.

    Raises:
        BackendError: a form's result is not the definition's.
    """
    forms, reference = forms_of(case, batch, dtype, device)
    floor, rows = floor_of(case, batch, dtype, ceiling), []
    moved = case.bytes(batch, dtype, ACTIVATIONS.get(dtype))
    for form, call in forms.items():
        result = call().float()
        error = float((result - reference).abs().max() / reference.abs().max())
        if not error <= TOLERANCE[dtype]:  # NaN is no result either
            raise BackendError(f"{form} of {case.layer} in {dtype} is wrong: relative error {error:.2g}")
        with watch_gpu() as gpu:
            times = time_calls(call, seconds, device)
        ms = statistics.median(times)
        tflops, gbps = case.flops(batch) / ms / 1e9, moved / ms / 1e6
        shares = {"of_tflops": tflops / ceiling.tflops[dtype], "of_bandwidth": gbps / ceiling.bandwidth}
        details = {"tflops": tflops, "gbps": gbps, **shares, "error": error}
        rows.append(measured_row(work_of(case, batch, dtype), form, "time", times, floor, device, gpu, details=details))
    return rows


def table(rows: Sequence[Row]) -> str:
    """One line per layer, dtype and batch: the floor, each form's milliseconds and share of it, our rates and shares of the ceilings."""
    heads = ("layer", "kernel", "dtype", "batch")
    lines = [[*heads, "floor ms", *(f"{form} ms" for form in FORMS), "TFLOP/s", "GB/s"]]
    found: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        found.setdefault(tuple(str(row.work[head]) for head in heads), {})[row.setup["form"]] = row
    for key, mine in found.items():
        ours = mine["kernel"]
        shares = {form: (row.floor or 0) / row.value for form, row in mine.items()}
        cells = [f"{mine[form].value:.4f} ({shares[form]:.0%})" if form in mine else "" for form in FORMS]
        rates = (
            f"{ours.details['tflops']:.1f} ({ours.details['of_tflops']:.0%})",
            f"{ours.details['gbps']:.0f} ({ours.details['of_bandwidth']:.0%})",
        )
        lines.append([*key, f"{ours.floor:.4f}", *cells, *rates])
    return aligned(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit status 2 on a wrong argument or a wrong result, 0 on a machine without a GPU."""
    parser = command_line("kernels.layers", __doc__, resolutions="", batches="1,8", seconds=0.3)
    parser.add_argument("--dtypes", default="float16", help=f"comma-separated, of {', '.join(TOLERANCE)}; default: float16")
    parser.add_argument("--budget", type=float, default=1e9, help="seconds after which nothing new is begun")
    parser.add_argument("--json", type=Path, help="write every figure here too")
    parser.add_argument("--tflops", type=float, help="rate for the floors on a machine without a GPU, default: an H100's")
    parser.add_argument("--bandwidth", type=float, help="the same for memory, GB/s")
    return run(_run, parser, arguments)


def _run(options: argparse.Namespace) -> int:
    dtypes = chosen_names(options.dtypes, tuple(TOLERANCE), "dtype")
    chosen = list(cases(*block_resolutions(options)))
    if not dtypes:
        raise InputError("give at least one dtype")
    if any(rate is not None and not rate > 0 for rate in (options.tflops, options.bandwidth)):
        raise InputError("rates are above 0")
    if not options.dry_run and not has_gpu():
        return _floors(options, works(chosen, dtypes, options.batches))
    device = device_for(options)
    if "fp8" in dtypes and not has_fp8(device):
        dtypes.remove("fp8")
        print(f"{device_name(device)} has no FP8: left out")
    ceiling = measured_ceiling(dtypes, options.seconds, device)
    end, rows = time.perf_counter() + options.budget, []
    for dtype, batch, case in works(chosen, dtypes, options.batches):
        if time.perf_counter() > end:
            print(f"{case.layer} {dtype} x{batch}: not begun, the time was up")
            continue
        rows += measure(case, batch, dtype, ceiling, options.seconds, device)
        save(options.json, f"Kernels on {device_name(device)}", "kernels.layers", rows, ceiling)
    rates = ", ".join(f"{name} {value:.4g} TFLOP/s" for name, value in ceiling.tflops.items())
    print(f"{rates}, copy {ceiling.bandwidth:.4g} GB/s ({ceiling.source})")
    print(table(rows))
    return 0


def _floors(options: argparse.Namespace, wanted: Sequence[tuple[str, int, Case]]) -> int:
    """What can be said without a GPU."""
    given = options.tflops is not None or options.bandwidth is not None
    tflops = H100_TFLOPS if options.tflops is None else dict.fromkeys(TOLERANCE, options.tflops)
    ceiling = Ceiling(tflops, options.bandwidth or H100_BANDWIDTH, "given" if given else "an H100's figures")
    floors: list[dict[str, Any]] = [
        work_of(case, batch, dtype)
        | {
            "gflop": case.flops(batch) / 1e9,
            "mb": case.bytes(batch, dtype, ACTIVATIONS.get(dtype)) / 1e6,
            "floor_ms": floor_of(case, batch, dtype, ceiling),
        }
        for dtype, batch, case in wanted
    ]
    rates = ", ".join(f"{dtype} {tflops[dtype]:g} TFLOP/s" for dtype in dict.fromkeys(dtype for dtype, _, _ in wanted))
    print(f"no CUDA GPU here, so nothing was measured. Floors at {rates} and {ceiling.bandwidth:g} GB/s ({ceiling.source}):")
    shown = [("layer", "layer"), ("kernel", "kernel"), ("dtype", "dtype"), ("batch", "batch"), ("gflop", "GFLOP"), ("mb", "MB")]
    shown.append(("floor_ms", "floor ms"))
    lines = [[f"{f[key]:.4f}" if isinstance(f[key], float) else str(f[key]) for key, _ in shown] for f in floors]
    print(aligned([[head for _, head in shown], *lines]))
    save(options.json, "Floors of the kernels", "kernels.layers", [], ceiling, floors=floors)
    return 0


if __name__ == "__main__":
    sys.exit(main())
