"""Times the whole synthesis network, on the GPU kernels and in forms of plain PyTorch.

The command is `python -m stylert.benchmarks.kernels.whole_network`.

The network is config F with random weights, at 256, 512 and 1024 px. It takes `ws` and gives images, on one GPU. Forms:

- `kernels`: the torch backend on a bundle's network in each precision, one CUDA graph, from `ws` to uint8 images on the
  device. int8 and FP8 are forms for measuring (`eight_bit_network`);
- `kernels_host`: the same as a user's call, from `ws` in host memory to images in host memory, in float16;
- `eager`: the official form in float16: weights modulated per sample, one grouped convolution each;
- `channels_last`: scaled activations instead, and cuDNN on channels-last tensors;
- `compile`: `torch.compile(mode="max-autotune")` of `channels_last`.

A time is the median of single calls, each with a synchronisation. A rate is that of calls in sequence with one
synchronisation at the end. The images of a form are compared with those of the float32 network before it is timed (PSNR
over the range of its values). The lower bound is `fused_network_lower_bound`, at rates that were measured in the same run.

`--dry-run` runs every form, tiny, on the CPU. `--json` writes a result for `stylert bench compare` and `stylert bench report`; the
file is complete after each figure.
"""

from __future__ import annotations

from stylert.core.programs.stop_signals import end_quietly

if __name__ == "__main__":
    end_quietly()  # until `run_program`: the imports below take their time

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stylert.benchmarks.kernels.device import device_name, select_device, supports_fp8
from stylert.benchmarks.kernels.gpu_rates import measure_gpu_rates
from stylert.benchmarks.kernels.network_forms import (
    PEERS,
    PRECISIONS,
    STYLERT_FORMS,
    Synthesis,
    peer_synthesis,
    random_network,
    stylert_synthesis,
    torch_graph,
)
from stylert.benchmarks.kernels.options import TINY, benchmark_parser, parse_names, run_command
from stylert.benchmarks.kernels.results import measured_row, save_results
from stylert.benchmarks.machine.lower_bounds import DTYPES, fused_network_lower_bound
from stylert.benchmarks.machine.nvml import watch_gpu
from stylert.benchmarks.schema import Row
from stylert.core.errors import InputError, StylertError
from stylert.core.images.similarity import psnr
from stylert.core.programs.runner import run_program
from stylert.core.roofline import PeakRates
from stylert.core.text_table import aligned_columns
from stylert.models.stylegan2.config import GeneratorConfig

#: A rate is the median over as many series of calls.
RATE_SERIES = 5
#: Latents whose images are compared.
COMPARED_IMAGES = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit status 2 on a wrong argument or where there is no GPU."""
    parser = benchmark_parser("kernels.whole_network", __doc__, resolutions="256,512,1024", batches="1,4,8,16,32", seconds=0.4)
    parser.add_argument("--precisions", default="fp16,int8,fp8", help=f"comma-separated, of {', '.join(PRECISIONS)}")
    parser.add_argument(
        "--peers", default=",".join(PEERS), help="comma-separated; they run at the first batch and at the last batch"
    )
    parser.add_argument("--budget", type=float, default=1e9, help="seconds after which no further form is measured")
    parser.add_argument("--json", type=Path, help="write every figure to this file too, after each one")
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> int:
    precisions = parse_names(options.precisions, PRECISIONS, "precision")
    peers = parse_names(options.peers, PEERS, "peer")
    if not options.resolutions:
        raise InputError("give at least one resolution")
    device = select_device(options)
    import torch

    torch.backends.cudnn.allow_tf32 = False  # the reference is float32
    if not supports_fp8(device):
        precisions = [precision for precision in precisions if precision != "fp8"]
    measured_precisions = [*precisions, *(["fp16"] if peers else [])]  # peers compute in float16
    dtypes = list(dict.fromkeys(DTYPES[precision] for precision in measured_precisions))
    rates = measure_gpu_rates(dtypes, options.seconds, device)
    deadline = time.perf_counter() + options.budget
    configs = [TINY] if options.dry_run else [GeneratorConfig(resolution) for resolution in options.resolutions]
    # torch.compile takes minutes, so it runs after everything else has been measured.
    fast_peers = [peer for peer in peers if peer != "compile"]
    passes = [(config, precisions, fast_peers) for config in configs]
    if "compile" in peers:
        passes += [(config, [], ["compile"]) for config in configs]

    rows: list[Row] = []
    notes: list[str] = []
    title = f"The synthesis network on {device_name(device)}"
    for config, kernel_precisions, pass_peers in passes:
        for result in _measure_network(
            config, kernel_precisions, options.batches, pass_peers, options.seconds, device, rates, deadline
        ):
            if isinstance(result, str):
                notes.append(result)
                print(result, flush=True)
            else:
                rows += result
                print(table(result).splitlines()[1], flush=True)
            save_results(options.json, title, "kernels.whole_network", rows, rates, notes=notes)
    print(table(rows))
    return 0


def table(rows: Sequence[Row]) -> str:
    """One line per form, from `rows` in which the time and the rate of each form follow each other."""
    lines = [["model", "form", "precision", "batch", "p50 ms", "images/s", "bound ms", "of roofline", "dB"]]
    for time_row, rate_row in zip(rows[::2], rows[1::2], strict=True):
        work = time_row.work
        lines.append(
            [
                str(work["model"]),
                str(time_row.setup["form"]),
                str(work["precision"]),
                str(work["batch"]),
                f"{time_row.value:.3f}",
                f"{rate_row.value:.0f}",
                f"{time_row.floor:.3f}",
                f"{rate_row.value / (rate_row.floor or 1):.0%}",
                f"{time_row.details['psnr_db']:.1f}",
            ]
        )
    return aligned_columns(lines)


def _measure_network(
    config: GeneratorConfig, precisions: Sequence[str], batches: Sequence[int], peers: Sequence[str], seconds: float,
    device: str, rates: PeakRates, deadline: float,
) -> Iterator[list[Row] | str]:  # fmt: skip
    """The time and the rate of every form of one network, or a line of text for a form that did not run."""
    import torch

    network = random_network(config).to(device)
    ws = {batch: torch.randn(batch, config.num_ws, config.w_dim, device=device) for batch in batches}
    compared_ws = torch.randn(min(COMPARED_IMAGES, max(batches)), config.num_ws, config.w_dim, device=device)
    references = torch.cat([network(row[None], noise_mode="const").permute(0, 2, 3, 1) for row in compared_ws])
    graphs: dict[str, Any] = {}  # the graph of one precision, for the next batch
    few_batches = list(dict.fromkeys((batches[0], batches[-1])))
    forms = [("kernels", precision, batch) for precision in precisions for batch in batches]
    forms += [("kernels_host", "fp16", batch) for batch in few_batches if "fp16" in precisions]
    forms += [(peer, "fp16", batch) for peer in peers for batch in few_batches]
    for form, precision, batch in forms:
        label = f"sg2-{config.resolution} {form} {precision} x{batch}"
        if time.perf_counter() > deadline:
            yield f"{label}: not measured, the time was up"
            continue
        is_stylert = form in STYLERT_FORMS
        try:
            if is_stylert:
                if precision not in graphs:
                    graphs.clear()  # so that memory holds the weights of one precision only
                    graphs[precision] = torch_graph(network, precision, compared_ws)
                synthesis = stylert_synthesis(graphs[precision], form, ws[batch])
            else:
                synthesis = peer_synthesis(network, form, device)
            accuracy = _accuracy(synthesis, compared_ws, references, batch, uint8=is_stylert)
            with watch_gpu() as gpu:
                times, call_rates = _time_synthesis(partial(synthesis, ws[batch]), seconds, device)
        # Memory can be short, and a compiler can give up; other forms still run.
        except (RuntimeError, ValueError, StylertError) as error:
            yield f"{label}: did not run ({str(error).splitlines()[0][:120]})"
            continue
        lower_bound = fused_network_lower_bound(config, precision, batch, rates)
        work: dict[str, Any] = {
            "model": f"sg2-{config.resolution}",
            "kernel": "synthesis network",
            "shape": f"channel base {config.channel_base}",
            "precision": precision,
            "batch": batch,
        }
        fields: dict[str, Any] = {"device": device, "gpu": gpu, "details": {"psnr_db": accuracy}}
        image_rates = [batch * rate for rate in call_rates]
        highest_rate = 1000 * batch / lower_bound
        yield [
            measured_row(work, form, "p50", times, lower_bound, **fields),
            measured_row(work, form, "rate", image_rates, highest_rate, images_per_s=statistics.median(image_rates), **fields),
        ]


def _accuracy(synthesis: Synthesis, ws: Any, references: Any, batch: int, uint8: bool) -> float:
    """PSNR in dB of the images of one batch, whose latents repeat `ws`. `uint8` tells that the form gives uint8 images."""
    repeats = math.ceil(batch / len(ws))
    images = synthesis(ws.repeat(repeats, 1, 1)[:batch]).to(references.device).float()
    expected = references.repeat(repeats, 1, 1, 1)[:batch]
    if images.shape != expected.shape:
        images = images.permute(0, 2, 3, 1)
    if uint8:
        expected = (expected * 127.5 + 128).clamp(0, 255).floor()
    return _psnr(images, expected)


def _psnr(images: Any, expected: Any) -> float:
    """PSNR over the range of the expected values, in dB; 0 where a value is not finite."""
    a, b = (tensor.float().cpu().numpy() for tensor in (images, expected))
    return psnr(a, b, float(b.max() - b.min())) if np.isfinite(a).all() else 0.0


def _time_synthesis(call: Callable[[], Any], seconds: float, device: str) -> tuple[list[float], list[float]]:
    """Milliseconds of single calls with a synchronisation each, and calls per second in `RATE_SERIES` series without."""
    import torch

    def synchronise() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(3 if device == "cuda" else 1):
        call()
    synchronise()
    times: list[float] = []
    begin = time.perf_counter()
    while not times or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        call()
        synchronise()
        times.append(1000 * (time.perf_counter() - start))
    calls = max(1, math.ceil(1000 * seconds / statistics.median(times) / RATE_SERIES))
    rates = []
    for _ in range(RATE_SERIES):
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        synchronise()
        rates.append(calls / (time.perf_counter() - begin))
    return times, rates


if __name__ == "__main__":
    run_program("kernels.whole_network", main)
