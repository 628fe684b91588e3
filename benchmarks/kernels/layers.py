"""Times each layer, on the GPU kernels and in forms of plain PyTorch: `python -m stylert.benchmarks.kernels.layers`.

Every layer of StyleGAN2's config F at 1024 px, in each dtype and batch, in these forms (`operator_forms.py`):

- `kernel`: our Triton kernel, with weights prepared ahead as in an engine;
- `eager`: the operator's definition in PyTorch;
- `compile`: `torch.compile` of the definition;
- `cudnn`: cuDNN's convolution on channels-last tensors, and each pointwise operation as a kernel of its own.

A form is timed after its result has been compared with the definition in float32. A time is the median of single calls
with a cold L2 cache. Its lower bound is the roofline at rates that were measured in the same run. cuDNN multiplies
float32 in TF32, which is PyTorch's default.

Rows of int8 and FP8 are 3x3 convolutions with float16 activations. PyTorch has no such convolution on a GPU, so there is no
`cudnn` form. The definition gathers the pixels under each tap into rows and multiplies matrices in 8 bits.

`--json` writes a result for `stylert bench compare` and `stylert bench report`. Without a GPU the command prints only the lower
bounds, at the sustained rates of an H100 or at given rates.
"""

from __future__ import annotations

from stylert.core.programs.stop_signals import end_quietly

if __name__ == "__main__":
    end_quietly()  # until `run_program`: the imports below take their time

import argparse
import itertools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stylert.benchmarks.kernels.device import device_name, has_gpu, select_device, supports_fp8
from stylert.benchmarks.kernels.gpu_rates import measure_gpu_rates
from stylert.benchmarks.kernels.operator_forms import TOLERANCE, operator_forms
from stylert.benchmarks.kernels.options import benchmark_parser, parse_names, run_command, selected_layers
from stylert.benchmarks.kernels.results import measured_row, save_results
from stylert.benchmarks.kernels.timing import time_calls
from stylert.benchmarks.machine.layer_operators import LayerOperator, layer_operators
from stylert.benchmarks.machine.lower_bounds import ACTIVATION_DTYPES
from stylert.benchmarks.machine.nvml import watch_gpu
from stylert.benchmarks.schema import Row
from stylert.core.errors import BackendError, InputError
from stylert.core.machine.gpu_specs import GPU_SPECS
from stylert.core.programs.runner import run_program
from stylert.core.roofline import PeakRates
from stylert.core.text_table import aligned_columns

FORMS = ("kernel", "eager", "compile", "cudnn")


def combinations(
    operators: Sequence[LayerOperator], dtypes: Sequence[str], batches: Sequence[int]
) -> list[tuple[str, int, LayerOperator]]:
    """Each dtype with each batch and operator; in 8 bits only the convolutions."""
    return [
        (dtype, batch, operator)
        for dtype, batch, operator in itertools.product(dtypes, batches, operators)
        if dtype not in ACTIVATION_DTYPES or (operator.name == "modulated_conv2d" and operator.spec.kind == "conv")
    ]


def work_of(operator: LayerOperator, batch: int, dtype: str) -> dict[str, Any]:
    """The work of a row: rows with equal work are comparable."""
    spec = operator.spec
    shape = f"{spec.in_channels} to {spec.out_channels} channels, {spec.resolution} px"
    return {"kernel": operator.name, "layer": operator.layer, "shape": shape, "dtype": dtype, "batch": batch}


def measure(operator: LayerOperator, batch: int, dtype: str, rates: PeakRates, seconds: float, device: str) -> list[Row]:
    """Check and time every form of one operator, about `seconds` each.

    Raises:
        BackendError: The result of a form is wrong.
    """
    forms, reference = operator_forms(operator, batch, dtype, device)
    activation_dtype = ACTIVATION_DTYPES.get(dtype)
    lower_bound = operator.lower_bound_ms(batch, dtype, rates, activation_dtype)
    flops, bytes_moved = operator.flops(batch), operator.bytes_moved(batch, dtype, activation_dtype)
    rows = []
    for name, form in forms.items():
        result = form().float()
        error = float((result - reference).abs().max() / reference.abs().max())
        if not error <= TOLERANCE[dtype]:  # also where the error is NaN
            raise BackendError(f"{name} of {operator.layer} in {dtype} is wrong: relative error {error:.2g}")
        with watch_gpu() as gpu:
            times = time_calls(form, seconds, device)
        ms = statistics.median(times)
        tflops, gbps = flops / ms / 1e9, bytes_moved / ms / 1e6
        details = {
            "tflops": tflops,
            "gbps": gbps,
            "of_tflops": tflops / rates.tflops[dtype],
            "of_bandwidth": gbps / rates.bandwidth,
            "error": error,
        }
        work = work_of(operator, batch, dtype)
        rows.append(measured_row(work, name, "time", times, lower_bound, device, gpu, details=details))
    return rows


def table(rows: Sequence[Row]) -> str:
    """One line per layer, dtype and batch.

    A percentage beside a time is the lower bound over that time. The last two columns are the rates of our kernel, with their
    shares of the peak rates.
    """
    keys = ("layer", "kernel", "dtype", "batch")
    lines = [[*keys, "bound ms", *(f"{form} ms" for form in FORMS), "TFLOP/s", "GB/s"]]
    rows_of_work: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        work = tuple(str(row.work[key]) for key in keys)
        rows_of_work.setdefault(work, {})[row.setup["form"]] = row
    for work, by_form in rows_of_work.items():
        times = []
        for form in FORMS:
            measured = by_form.get(form)
            times.append("" if measured is None else f"{measured.value:.4f} ({(measured.floor or 0) / measured.value:.0%})")
        ours = by_form["kernel"]
        rates = (
            f"{ours.details['tflops']:.1f} ({ours.details['of_tflops']:.0%})",
            f"{ours.details['gbps']:.0f} ({ours.details['of_bandwidth']:.0%})",
        )
        lines.append([*work, f"{ours.floor:.4f}", *times, *rates])
    return aligned_columns(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Exit status 2 on a wrong argument or a wrong result; 0 on a machine without a GPU."""
    parser = benchmark_parser("kernels.layers", __doc__, resolutions="", batches="1,8", seconds=0.3)
    parser.add_argument("--dtypes", default="float16", help=f"comma-separated, of {', '.join(TOLERANCE)}; default: float16")
    parser.add_argument("--budget", type=float, default=1e9, help="seconds after which no further layer is measured")
    parser.add_argument("--json", type=Path, help="write every figure to this file too")
    parser.add_argument(
        "--tflops", type=float, help="peak rate for the lower bounds on a machine without a GPU, default: an H100's"
    )
    parser.add_argument("--bandwidth", type=float, help="the same for memory, GB/s")
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> int:
    dtypes = parse_names(options.dtypes, tuple(TOLERANCE), "dtype")
    operators = list(layer_operators(*selected_layers(options)))
    if not dtypes:
        raise InputError("give at least one dtype")
    if any(rate is not None and not rate > 0 for rate in (options.tflops, options.bandwidth)):
        raise InputError("rates are above 0")
    if not options.dry_run and not has_gpu():
        return _print_lower_bounds(options, combinations(operators, dtypes, options.batches))
    device = select_device(options)
    if "fp8" in dtypes and not supports_fp8(device):
        dtypes.remove("fp8")
        print(f"{device_name(device)} has no FP8: left out")
    rates = measure_gpu_rates(dtypes, options.seconds, device)
    end = time.perf_counter() + options.budget
    rows: list[Row] = []
    for dtype, batch, operator in combinations(operators, dtypes, options.batches):
        if time.perf_counter() > end:
            print(f"{operator.layer} {dtype} x{batch}: not measured, the time was up")
            continue
        rows += measure(operator, batch, dtype, rates, options.seconds, device)
        save_results(options.json, f"Kernels on {device_name(device)}", "kernels.layers", rows, rates)
    tflops = ", ".join(f"{dtype} {rate:.4g} TFLOP/s" for dtype, rate in rates.tflops.items())
    print(f"{tflops}, copy {rates.bandwidth:.4g} GB/s ({rates.source})")
    print(table(rows))
    return 0


def _print_lower_bounds(options: argparse.Namespace, work: Sequence[tuple[str, int, LayerOperator]]) -> int:
    """Print and write the lower bounds, which need no GPU."""
    rates = _assumed_rates(options.tflops, options.bandwidth)
    bounds: list[dict[str, Any]] = []
    for dtype, batch, operator in work:
        activation_dtype = ACTIVATION_DTYPES.get(dtype)
        figures = {
            "gflop": operator.flops(batch) / 1e9,
            "mb": operator.bytes_moved(batch, dtype, activation_dtype) / 1e6,
            "floor_ms": operator.lower_bound_ms(batch, dtype, rates, activation_dtype),
        }
        bounds.append(work_of(operator, batch, dtype) | figures)
    dtypes = dict.fromkeys(dtype for dtype, _, _ in work)
    tflops = ", ".join(f"{dtype} {rates.tflops[dtype]:g} TFLOP/s" for dtype in dtypes)
    print(f"no CUDA GPU here, so nothing was measured. Lower bounds at {tflops} and {rates.bandwidth:g} GB/s ({rates.source}):")
    heads = {
        "layer": "layer", "kernel": "kernel", "dtype": "dtype", "batch": "batch", "gflop": "GFLOP", "mb": "MB", "floor_ms": "bound ms",
    }  # fmt: skip
    lines = [list(heads.values())]
    for bound in bounds:
        lines.append([f"{bound[key]:.4f}" if isinstance(bound[key], float) else str(bound[key]) for key in heads])
    print(aligned_columns(lines))
    save_results(options.json, "Lower bounds of the kernels", "kernels.layers", [], rates, floors=bounds)
    return 0


def _assumed_rates(tflops: float | None, bandwidth: float | None) -> PeakRates:
    """The given rates, one TFLOP/s figure for every dtype; those of an H100 where none is given."""
    h100 = GPU_SPECS[90].sustained_rates()
    if tflops is None and bandwidth is None:
        return h100
    by_dtype = h100.tflops if tflops is None else dict.fromkeys(TOLERANCE, tflops)
    return PeakRates(by_dtype, bandwidth or h100.bandwidth, "given")


if __name__ == "__main__":
    run_program("kernels.layers", main)
