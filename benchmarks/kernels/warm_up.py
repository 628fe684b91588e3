"""Compiles the kernels of the network in several processes: `python -m stylert.benchmarks.kernels.warm_up`.

Triton compiles one kernel after the other when a network first runs, for minutes. Here each process runs the whole network, but
only its share of the launches. All find the results in Triton's cache, and so does every later run.
"""

from __future__ import annotations

from stylert.core.programs.stop_signals import end_quietly

if __name__ == "__main__":
    end_quietly()  # until `run_program`: the imports below take their time

import argparse
import itertools
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from stylert.benchmarks.kernels.device import select_device, supports_fp8
from stylert.benchmarks.kernels.network_forms import PRECISIONS, random_network, torch_graph
from stylert.benchmarks.kernels.options import TINY, benchmark_parser, parse_names, run_command
from stylert.benchmarks.processes import new_process
from stylert.core.errors import InputError
from stylert.core.programs.runner import run_program
from stylert.models.stylegan2.config import GeneratorConfig


@dataclass(frozen=True)
class Share:
    """The launches that one process compiles: those whose index is `first` modulo `step`, for every batch."""

    config: GeneratorConfig
    precision: str
    batches: tuple[int, ...]
    device: str
    first: int
    step: int


class Stub:
    """In place of a launch of another share. Its results have the right shapes and no meaning."""

    def __init__(self, launch: Any) -> None:
        self._launch = launch

    def __call__(self, operands: list[Any]) -> Any:
        import torch

        from stylert.runtime.backends.torch_network.launches import RgbLaunch

        launch, x = self._launch, operands[0]
        if isinstance(launch, RgbLaunch):
            return _empty_image(launch, len(x), x.device)
        n, up = len(operands[1]), launch.node.up
        shape = (n, launch.weight.shape[1], x.shape[2] * up, x.shape[3] * up)
        y = torch.zeros(shape, dtype=x.dtype, device=x.device).contiguous(memory_format=torch.channels_last)
        if launch.rgb is None:
            return y
        image = _empty_image(launch.rgb, n, x.device)
        return (y, image) if launch.keep else image


def compile_share(share: Share) -> int:
    """Run the network with the launches of a share, and stubs for all others. Returns how many launches ran."""
    import torch

    from stylert.runtime.backends.torch_network.launches import ConvLaunch, RgbLaunch

    os.environ.update({"TRITON_INTERPRET": "1"} if share.device == "cpu" else {})
    network = random_network(share.config).to(share.device)
    ws = torch.randn(max(share.batches), share.config.num_ws, share.config.w_dim, device=share.device)
    graph = torch_graph(network, share.precision, ws[:1])
    launches = [i for i, node in enumerate(graph.nodes) if isinstance(node.run, ConvLaunch | RgbLaunch)]
    own = set(launches[share.first :: share.step])
    nodes = [
        node._replace(run=Stub(node.run)) if i in launches and i not in own else node for i, node in enumerate(graph.nodes)
    ]
    graph.replace_nodes(nodes)
    with torch.inference_mode():
        for batch in share.batches:
            graph({"ws": ws[:batch]})
    if share.device == "cuda":
        torch.cuda.synchronize()
    return len(own) * len(share.batches)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit status 2 on a wrong argument or where there is no GPU."""
    parser = benchmark_parser("kernels.warm_up", __doc__, resolutions="1024", batches="1,8,32", seconds=1)
    parser.add_argument("--precisions", default="fp16,int8,fp8", help=f"comma-separated, of {', '.join(PRECISIONS)}")
    parser.add_argument("--jobs", type=int, default=min(12, os.cpu_count() or 1), help="processes at a time")
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> int:
    precisions = parse_names(options.precisions, PRECISIONS, "precision")
    if options.jobs < 1 or not precisions or not options.resolutions:
        raise InputError("give at least one job, one precision and one resolution")
    device = select_device(options)
    if not supports_fp8(device):
        precisions = [precision for precision in precisions if precision != "fp8"]
    configs = [TINY] if options.dry_run else [GeneratorConfig(resolution) for resolution in options.resolutions]
    # Networks in 8 bits first run in float16, to find their scales. So they come after float16.
    begin, ran = time.perf_counter(), 0
    with ExitStack() as stack, ThreadPoolExecutor(options.jobs) as threads:
        processes = [stack.enter_context(new_process(f"compilation {job}")) for job in range(options.jobs)]
        for precision, config in itertools.product(precisions, configs):
            shares = [Share(config, precision, options.batches, device, job, options.jobs) for job in range(options.jobs)]
            ran += sum(threads.map(lambda process, share: process(compile_share, share), processes, shares))
    print(f"{ran} launches in {options.jobs} processes, {time.perf_counter() - begin:.0f} s")
    return 0


def _empty_image(launch: Any, n: int, device: Any) -> Any:
    import torch

    shape = (n, *launch.size, len(launch.weight))
    image = torch.zeros(shape, dtype=torch.uint8 if launch.bytes_out else torch.float32, device=device)
    return image if launch.bytes_out else image.permute(0, 3, 1, 2)


if __name__ == "__main__":
    run_program("kernels.warm_up", main)
