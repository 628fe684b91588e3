"""Times every launch of the network by itself: `python -m stylert.benchmarks.kernels.trace`.

PyTorch's profiler times every node of the torch backend's network, and every kernel on the GPU. Nodes run one by one, without a
CUDA graph, so gaps between them do not count. `--json` writes both lists. `--dry-run` runs on the CPU.
"""

from __future__ import annotations

from stylert.core.programs.stop_signals import end_quietly

if __name__ == "__main__":
    end_quietly()  # until `run_program`: the imports below take their time

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stylert.benchmarks.kernels.device import device_name, select_device
from stylert.benchmarks.kernels.network_forms import PRECISIONS, random_network, torch_graph
from stylert.benchmarks.kernels.options import TINY, benchmark_parser, parse_names, run_command
from stylert.core.errors import InputError
from stylert.core.files.atomic import atomic_file
from stylert.core.programs.runner import run_program
from stylert.core.text_table import aligned_columns
from stylert.models.stylegan2.config import GeneratorConfig

#: Profiled calls. The times are their medians.
CALLS = 5
#: Lines of the printed tables.
PRINTED = 30


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit status 2 on a wrong argument or where there is no GPU."""
    parser = benchmark_parser("kernels.trace", __doc__, resolutions="1024", batches="1,8", seconds=1)
    parser.add_argument("--precisions", default="fp16", help=f"comma-separated, of {', '.join(PRECISIONS)}")
    parser.add_argument("--json", type=Path, help="write all times to this file too, after each batch")
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> int:
    precisions = parse_names(options.precisions, PRECISIONS, "precision")
    if not precisions or not options.resolutions:
        raise InputError("give at least one precision and one resolution")
    device = select_device(options)
    import torch

    traces: list[dict[str, Any]] = []
    for config in [TINY] if options.dry_run else [GeneratorConfig(resolution) for resolution in options.resolutions]:
        network = random_network(config).to(device)
        for precision in precisions:
            ws = torch.randn(max(options.batches), config.num_ws, config.w_dim, device=device)
            graph = torch_graph(network, precision, ws[:1])
            for batch in options.batches:
                trace = _traced(graph, ws[:batch], device)
                traces.append({"model": f"sg2-{config.resolution}", "precision": precision, "batch": batch} | trace)
                _print(traces[-1])
                if options.json is not None:
                    with atomic_file(options.json) as temporary:
                        temporary.write_text(
                            json.dumps({"device": device_name(device), "traces": traces}, indent=1) + "\n", encoding="utf-8"
                        )
    return 0


def _traced(graph: Any, ws: Any, device: str) -> dict[str, Any]:
    """Milliseconds of every node, in their order, and of every kernel, the longest first."""
    from torch.profiler import ProfilerActivity, profile

    from stylert.runtime.backends.torch import TorchSession

    session = TorchSession(graph, device, capture=False)
    inputs = {"ws": ws.cpu().numpy()}
    session.run(inputs)  # compiles
    runs = [session.layer_times(inputs) for _ in range(CALLS)]
    nodes = [[name, statistics.median(run[i][1] for run in runs)] for i, (name, _) in enumerate(runs[0])]
    kernels: list[list[Any]] = []
    if device == "cuda":
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            session.run(inputs)
        averages = sorted(profiler.key_averages(), key=lambda e: -e.device_time_total)
        kernels = [[e.key, e.count, e.device_time_total / 1000] for e in averages if e.device_time_total]
    return {"nodes": nodes, "kernels": kernels}


def _print(trace: dict[str, Any]) -> None:
    total = sum(ms for _, ms in trace["nodes"])
    print(f"{trace['model']} {trace['precision']} x{trace['batch']}: {total:.3f} ms in {len(trace['nodes'])} nodes")
    longest = sorted(trace["nodes"], key=lambda node: -node[1])[:PRINTED]
    print(aligned_columns([["node", "ms"], *([name, f"{ms:.4f}"] for name, ms in longest)]), flush=True)
    for name, count, ms in trace["kernels"][:PRINTED]:
        print(f"{ms:9.4f} ms  {count:4}  {name[:100]}")


if __name__ == "__main__":
    run_program("kernels.trace", main)
