"""The whole synthesis network on our kernels beside how PyTorch runs it: `python -m stylert.benchmarks.kernels.generator`.

Config F with random weights, at 256, 512 and 1024 px, ws in and an image out, on one GPU. Forms:

- `kernels <precision>`: `stylert.benchmarks.kernels.synthesis`, one CUDA graph, uint8 images left on the device;
- `eager`: the official form (weights modulated per sample, a grouped convolution each) in float16, as people run it;
- `channels_last`: activations scaled instead, cuDNN on channels-last tensors;
- `compile`: `torch.compile(mode="max-autotune")` of that.

A time is the median of single calls, each waited for; a rate is that of calls sent one after the other and waited for once. A
form's images are compared with the float32 network's first (PSNR over the range of its values). The floor: every weight and
activation that must move, once, or the arithmetic, at the rates of a copy and a matrix product measured in the same run
(8-bit arithmetic at twice that of float16). `--dry-run` runs every form, tiny, on the CPU.

`--json` writes a result that `stylert bench compare` and `stylert bench report` read, anew after each figure.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stylert.benchmarks.kernels.command_line import (
    TINY,
    Call,
    aligned,
    chosen_names,
    command_line,
    device_for,
    device_name,
    has_fp8,
    measured_ceiling,
    measured_row,
    run,
    save,
)
from stylert.benchmarks.machine.nvml import watch_gpu
from stylert.benchmarks.machine.roofline import Ceiling
from stylert.benchmarks.schema import Row
from stylert.core.errors import InputError
from stylert.core.image_similarity import psnr
from stylert.models.stylegan2.config import GeneratorConfig

PEERS = ("eager", "channels_last", "compile")
#: Bytes of an activation and of a weight.
BYTES = {"fp16": (2, 2), "bf16": (2, 2), "fp32": (4, 4), "int8": (2, 1), "fp8": (2, 1)}
#: What the products are computed in.
DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "int8": "int8", "fp8": "fp8"}


#: A rate is measured in as many goes.
BURSTS = 5


def floor_ms(cfg: GeneratorConfig, batch: int, precision: str, ceiling: Ceiling) -> float:
    """Milliseconds that no form of the network can beat: torgb within the convolution, the last activations never written."""
    activation, weight = BYTES[precision]
    convs = [spec for spec in cfg.layers() if spec.kind == "conv"]
    flops = 2 * batch * cfg.macs()
    read = sum(batch * s.in_channels * (s.resolution // s.up) ** 2 for s in convs)
    written = sum(batch * s.out_channels * s.resolution**2 for s in convs[:-1])
    weights = sum(s.in_channels * s.out_channels * s.kernel**2 for s in convs)
    moved = (read + written) * activation + weights * weight + batch * cfg.img_channels * cfg.resolution**2
    return 1000 * max(flops / (ceiling.tflops[DTYPES[precision]] * 1e12), moved / (ceiling.bandwidth * 1e9))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit status 2 on a wrong argument or where there is no GPU."""
    parser = command_line("kernels.generator", __doc__, resolutions="256,512,1024", batches="1,4,8,16,32", seconds=0.4)
    parser.add_argument("--precisions", default="fp16,bf16,int8,fp8", help=f"comma-separated, of {', '.join(BYTES)}")
    parser.add_argument("--peers", default=",".join(PEERS), help="comma-separated; they run at the first and the last batch")
    parser.add_argument("--budget", type=float, default=1e9, help="seconds after which nothing new is begun")
    parser.add_argument("--json", type=Path, help="write every figure here too, after each one")
    return run(_run, parser, arguments)


def _run(options: argparse.Namespace) -> int:
    precisions, peers = (
        chosen_names(*c) for c in ((options.precisions, tuple(BYTES), "precision"), (options.peers, PEERS, "peer"))
    )
    if not options.resolutions:
        raise InputError("give at least one resolution")
    device = device_for(options)
    import torch

    torch.backends.cudnn.allow_tf32 = False  # the reference is float32
    if not has_fp8(device):
        precisions = [p for p in precisions if p != "fp8"]
    # Peers compute in float16.
    dtypes = dict.fromkeys(DTYPES[p] for p in (*precisions, *(["fp16"] if peers else [])))
    ceiling = measured_ceiling(list(dtypes), options.seconds, device)
    end = time.perf_counter() + options.budget
    rows: list[Row] = []
    notes: list[str] = []
    configs = [TINY] if options.dry_run else [GeneratorConfig(r) for r in options.resolutions]
    # Compilers take minutes: their turn comes when everything else has been measured.
    quick = [peer for peer in peers if peer != "compile"]
    passes = [(cfg, precisions, quick) for cfg in configs] + [(cfg, [], ["compile"]) for cfg in configs if "compile" in peers]
    for cfg, mine, theirs in passes:
        for found in _network(cfg, mine, options.batches, theirs, options.seconds, device, ceiling, end):
            if isinstance(found, str):
                notes.append(found)
                print(found, flush=True)
            else:
                rows += found
                print(table(found).splitlines()[1], flush=True)
            save(
                options.json, f"The synthesis network on {device_name(device)}", "kernels.generator", rows, ceiling, notes=notes
            )
    print(table(rows))
    return 0


def table(rows: Sequence[Row]) -> str:
    """One line per time and rate of one form, which follow each other in `rows`."""
    heads = ["model", "form", "precision", "batch", "p50 ms", "images/s", "floor ms", "of floor", "dB"]
    lines = [
        [
            *(str(v) for v in (time.work["model"], time.setup["form"], time.work["precision"], time.work["batch"])),
            f"{time.value:.3f}",
            f"{rate.value:.0f}",
            f"{time.floor:.3f}",
            f"{rate.value / (rate.floor or 1):.0%}",
            f"{time.details['psnr_db']:.1f}",
        ]
        for time, rate in zip(rows[::2], rows[1::2], strict=True)
    ]
    return aligned([heads, *lines])


def _network(
    cfg: GeneratorConfig, precisions: Sequence[str], batches: Sequence[int], peers: Sequence[str], seconds: float,
    device: str, ceiling: Ceiling, end: float,
) -> Iterator[list[Row] | str]:  # fmt: skip
    """Time and rate of every form of one network; a line of text for each that did not run."""
    import torch

    from stylert.models.stylegan2.networks import SynthesisNetwork

    torch.manual_seed(0)
    network = SynthesisNetwork(cfg).eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        if name.endswith(("noise_strength", ".bias")) and "affine" not in name:
            parameter.add_(0.1 * torch.randn_like(parameter))
    network = network.to(device)
    ws = {batch: torch.randn(batch, cfg.num_ws, cfg.w_dim, device=device) for batch in batches}
    # What the float32 network makes of a few latents, TF32 off, is what every form is held to.
    prepared: dict[str, Any] = {}
    few = min(4, max(batches))
    probe = torch.randn(few, cfg.num_ws, cfg.w_dim, device=device)
    references = torch.cat([network(row[None], noise_mode="const").permute(0, 2, 3, 1) for row in probe])
    calls: list[tuple[str, str, int]] = [("kernels", p, batch) for p in precisions for batch in batches]
    calls += [(peer, "fp16", batch) for peer in peers for batch in dict.fromkeys((batches[0], batches[-1]))]
    for form, precision, batch in calls:
        label = f"sg2-{cfg.resolution} {form} {precision} x{batch}"
        if time.perf_counter() > end:
            yield f"{label}: not begun, the time was up"
            continue
        try:
            ours = form == "kernels"
            call = _kernels(network, prepared, precision, batch, probe) if ours else _peer(network, form, device)
            latents = probe.repeat(math.ceil(batch / few), 1, 1)[:batch]
            image = call(latents).float()
            expected = references.repeat(math.ceil(batch / few), 1, 1, 1)[:batch]
            if image.shape != expected.shape:
                image = image.permute(0, 2, 3, 1)
            if ours:  # bytes
                expected = (expected * 127.5 + 128).clamp(0, 255).floor()
            accuracy = _psnr(image, expected)
            with watch_gpu() as gpu:
                single, rates = _clock(partial(call, ws[batch]), seconds, device)
        except (RuntimeError, ValueError) as problem:  # memory, or a compiler that gives up; the other forms go on
            yield f"{label}: did not run ({str(problem).splitlines()[0][:120]})"
            continue
        floor = floor_ms(cfg, batch, precision, ceiling)
        work: dict[str, Any] = {
            "model": f"sg2-{cfg.resolution}",
            "kernel": "synthesis network",
            "shape": f"channel base {cfg.channel_base}",
        }
        work |= {"precision": precision, "batch": batch}
        named: dict[str, Any] = {"device": device, "gpu": gpu, "details": {"psnr_db": accuracy}}
        images = [batch * rate for rate in rates]
        yield [
            measured_row(work, form, "p50", single, floor, **named),
            measured_row(work, form, "rate", images, 1000 * batch / floor, images_per_s=statistics.median(images), **named),
        ]


def _psnr(image: Any, expected: Any) -> float:
    """PSNR over the range of the expected values, in dB; 0 where a value is not finite."""
    a, b = (t.float().cpu().numpy() for t in (image, expected))
    return psnr(a, b, float(b.max() - b.min())) if np.isfinite(a).all() else 0.0


def _kernels(network: Any, known: dict[str, Any], precision: str, batch: int, probe: Any) -> Callable[[Any], Any]:
    """The network on our kernels, its weights prepared once for all batches."""
    from stylert.benchmarks.kernels.synthesis import KernelSynthesis, calibrate, prepare

    if precision not in known:
        known.clear()  # one precision after the other, so that their weights do not pile up
        known[precision] = calibrate(network, prepare(network, precision, str(probe.device)), probe)
    synthesis = KernelSynthesis(known[precision], batch)
    return synthesis.captured() if probe.device.type == "cuda" else synthesis


def _peer(network: Any, form: str, device: str) -> Callable[[Any], Any]:
    import torch

    from stylert.benchmarks.peers.textbook_network import PlainSynthesis

    plain: Any = PlainSynthesis(copy.deepcopy(network), "grouped" if form == "eager" else "scaled").to(torch.float16)
    if form != "eager":
        plain = plain.to(memory_format=torch.channels_last)
    call: Any = plain
    if form == "compile":
        torch._dynamo.reset()
        options: dict[str, Any] = {"mode": "max-autotune"} if device == "cuda" else {"backend": "aot_eager"}
        call = torch.compile(plain, dynamic=False, **options)

    def run(latents: Any) -> Any:
        with torch.inference_mode():
            return call(latents.to(torch.float16))

    return run


def _clock(call: Call, seconds: float, device: str) -> tuple[list[float], list[float]]:
    """Milliseconds of single calls that are waited for, and calls per second of those that are not, in `BURSTS` goes."""
    import torch

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(3 if device == "cuda" else 1):
        call()
    wait()
    single: list[float] = []
    begin = time.perf_counter()
    while not single or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        call()
        wait()
        single.append(1000 * (time.perf_counter() - start))
    count = max(1, math.ceil(1000 * seconds / statistics.median(single) / BURSTS))
    rates = []
    for _ in range(BURSTS):
        begin = time.perf_counter()
        for _ in range(count):
            call()
        wait()
        rates.append(count / (time.perf_counter() - begin))
    return single, rates


if __name__ == "__main__":
    sys.exit(main())
