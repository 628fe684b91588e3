"""Finds the fastest tiles of ModulatedConv2d and writes them to a table: `python -m stylert.benchmarks.kernels.autotune`.

With a GPU the command measures. For every layer of config F at 1024 px, in each dtype and batch, it checks and times the tiles
that the cost model ranks first. It writes the fastest to the table of the GPU's architecture, which the kernels read from
then on (`stylert.plugins.triton.tiles`). Layers that the table already has are not measured again. The command stops after
`--seconds`; the next call continues.

With `--model --arch sm_90` it needs no GPU. It compiles the candidate tiles and ranks them by the cost model
(`cost_model.py`). The tables of the package were made like this; their `source` is `model`.
"""

from __future__ import annotations

from stylert.core.programs.stop_signals import end_quietly

if __name__ == "__main__":
    end_quietly()  # until `run_program`: the imports below take their time

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from stylert.benchmarks.kernels.device import architecture_of, device_name, select_device, supports_fp8
from stylert.benchmarks.kernels.operator_forms import TOLERANCE
from stylert.benchmarks.kernels.options import benchmark_parser, parse_names, run_command, selected_layers
from stylert.benchmarks.kernels.timing import time_calls
from stylert.core.errors import BackendError, InputError, printable
from stylert.core.files.atomic import atomic_file, check_writable
from stylert.core.machine.gpu_specs import GPU_SPECS
from stylert.core.programs.runner import run_program
from stylert.models.stylegan2.config import GeneratorConfig
from stylert.plugins.triton.cost_model import ResourceUsage, best_tile, candidate_tiles, ranked_tiles
from stylert.plugins.triton.tiles import (
    FP8_ARCHITECTURE,
    ITEMSIZE,
    ConvProblem,
    Tile,
    default_tile,
    measured_tables_folder,
    read_table,
    table_document,
)

#: Layer to batch to tile, as in `stylert.plugins.triton.tiles`.
TileTable = dict[str, dict[int, Tile]]


def conv_problems(
    config: GeneratorConfig, resolutions: Sequence[int], dtypes: Sequence[str], batches: Sequence[int], architecture: int
) -> Iterator[ConvProblem]:
    """Every different convolution of the synthesis network at `resolutions`; torgb has no 8-bit form."""
    seen = set()
    for dtype in dtypes:
        for spec in config.layers():
            if spec.resolution not in resolutions or (spec.kind == "torgb" and ITEMSIZE[dtype] == 1):
                continue
            pixels, phases = (spec.resolution // spec.up) ** 2, spec.up**2
            for batch in batches:
                problem = ConvProblem(
                    dtype, batch, pixels, spec.in_channels, spec.out_channels, spec.kernel, phases, architecture
                )
                if problem not in seen:
                    seen.add(problem)
                    yield problem


def modelled_table(problems: Sequence[ConvProblem], architecture: int) -> TileTable:
    """The table that the cost model gives, from the resources of tiles that are compiled for `architecture`."""
    from stylert.plugins.aot import compile_variant
    from stylert.plugins.triton.variants import conv_variant

    table: TileTable = {}
    usages: dict[str, dict[Tile, ResourceUsage]] = {}
    for problem in problems:
        if problem.ksize == 1:
            continue  # torgb is bound by memory with every tile, so the model cannot rank them
        dtype = problem.dtype
        if dtype not in usages:
            usages[dtype] = {}
            for tile in candidate_tiles(dtype):
                entry = compile_variant(conv_variant("candidate", dtype, tile), f"sm_{architecture}")[2]
                usages[dtype][tile] = ResourceUsage(entry["registers"], entry["shared_bytes"], entry["spill_bytes"])
                print(f"sm_{architecture} {dtype} {tile}: {usages[dtype][tile]}")
        tile = best_tile(problem, usages[dtype], GPU_SPECS[architecture])
        table.setdefault(problem.layer, {})[problem.batch] = tile
    return table


def measure_table(
    problems: Sequence[ConvProblem],
    table: TileTable,
    seconds: float,
    seconds_per_tile: float,
    device: str,
    sms: int,
    tiles_per_layer: int,
    save: Callable[[TileTable], None],
) -> int:
    """Measure the problems that `table` lacks, and add the fastest tile of each.

    Args:
        problems: The convolutions.
        table: The table to complete.
        seconds: Time for all of them; no further problem is begun after it.
        seconds_per_tile: Time for each tile.
        device: `cuda` or `cpu`.
        sms: Streaming multiprocessors of the GPU.
        tiles_per_layer: Tiles to measure for each problem, those that the cost model ranks first.
        save: Called with the table after each problem.

    Returns:
        How many problems were left when the time was up.

    Raises:
        BackendError: The result of a tile differs from that of the default tile.
    """
    deadline = time.perf_counter() + seconds
    missing = [problem for problem in problems if problem.batch not in table.get(problem.layer, {})]
    for done, problem in enumerate(missing):
        if time.perf_counter() > deadline:
            return len(missing) - done
        name = f"{problem.layer} x{problem.batch}"
        run, result = _random_layer(problem, device)
        default = default_tile(problem)
        run(default)
        reference = result().clone()
        times = {}
        for tile in dict.fromkeys([default, *ranked_tiles(problem, sms, tiles_per_layer)]):
            try:
                result().fill_(float("nan"))
                run(tile)
            # A tile may be too large for this GPU; Triton has an error class for each reason.
            except Exception as error:
                print(f"{name}: {tile} does not run ({str(error).splitlines()[0][:80]})")
                continue
            difference = float((result() - reference).abs().max() / reference.abs().max())
            if not difference <= TOLERANCE[problem.dtype]:
                raise BackendError(f"{name}: {tile} is wrong, relative error {difference:.2g}")
            times[tile] = statistics.median(time_calls(partial(run, tile), seconds_per_tile, device))
        fastest = min(times, key=lambda tile: times[tile])
        print(f"{name}: {fastest} {times[fastest]:.4f} ms, default tile {times[default]:.4f} ms")
        table.setdefault(problem.layer, {})[problem.batch] = fastest
        save(table)
    return 0


def _random_layer(problem: ConvProblem, device: str) -> tuple[Callable[[Tile], None], Callable[[], Any]]:
    """A function that runs the layer with a tile on random operands, and a function that gives its float32 result."""
    import torch

    from stylert.plugins.eight_bit import quantize_weight
    from stylert.plugins.shapes import Epilogue
    from stylert.plugins.triton.modulated_conv2d import modulated_conv2d_into, workspace_elements

    n, pixels, up = problem.batch, problem.pixels, 2 if problem.phases == 4 else 1
    size = int(pixels**0.5)
    eight_bit = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}.get(problem.dtype)
    dtype = torch.float16 if eight_bit else getattr(torch, problem.dtype)
    draw = partial(torch.randn, device=device)
    fan_in = problem.i * problem.ksize**2
    weight = draw(problem.phases, problem.o, problem.ksize, problem.ksize, problem.i) / fan_in**0.5
    weight = quantize_weight(weight, eight_bit)[0] if eight_bit else weight.to(dtype)
    x, style = draw(n, size, size, problem.i).to(dtype), draw(n, problem.i) * (30 if eight_bit else 1)
    demod = draw(n, problem.o).abs() / (10000 if eight_bit else 1)
    y = torch.empty(n, size * up, size * up, problem.o, device=device, dtype=dtype)
    # The interpreter multiplies neither bfloat16 nor FP8.
    precision = "ieee" if device == "cpu" and problem.dtype in ("bfloat16", "fp8") else "tf32x3"
    accumulator = torch.int32 if problem.dtype == "int8" else torch.float32

    def run(tile: Tile) -> None:
        elements = workspace_elements(n, pixels, problem.o, problem.phases, tile.splits)
        workspace = torch.empty(elements, device=device, dtype=accumulator) if elements else None
        modulated_conv2d_into(
            y, x, weight, style, demod, epilogue=Epilogue.of("lrelu"), tile=tile, precision=precision, workspace=workspace
        )

    return run, lambda: y if y.dtype == torch.float32 else y.float()


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit status 2 on a wrong argument or result, or where there is no GPU."""
    parser = benchmark_parser(
        "kernels.autotune", __doc__, resolutions="", batches="1,8", seconds=300, seconds_spent="in all; a later call continues"
    )
    parser.add_argument("--model", action="store_true", help="rank by the cost model, without a GPU")
    parser.add_argument("--arch", help="with --model: such as sm_90")
    parser.add_argument(
        "--dtypes", default="float16,int8", help=f"comma-separated, of {', '.join(ITEMSIZE)}; default: float16,int8"
    )
    parser.add_argument("--each", type=float, default=0.05, help="seconds for each tile")
    parser.add_argument(
        "--candidates", type=int, default=6, help="tiles to measure for each layer, those that the cost model ranks first"
    )
    parser.add_argument("--seed", type=int, default=0, help="for the order of the layers and for their operands")
    parser.add_argument("--again", action="store_true", help="measure anew what the table already has")
    parser.add_argument("--out", type=Path, help="folder for the table, default: where the kernels look for it")
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> int:
    config, resolutions = selected_layers(options)
    dtypes = parse_names(options.dtypes, tuple(ITEMSIZE), "dtype")
    device, architecture = _checked_target(options, dtypes)
    problems = list(conv_problems(config, resolutions, dtypes, options.batches, architecture))
    path = (options.out or measured_tables_folder()) / f"sm_{architecture}.json"
    check_writable(path)
    if device is None:
        return _write_modelled_table(problems, architecture, path)
    return _write_measured_table(problems, architecture, path, device, options)


def _checked_target(options: argparse.Namespace, dtypes: Sequence[str]) -> tuple[str | None, int]:
    """The device to measure on, None for the cost model, and its architecture. Raises InputError for wrong options."""
    if not dtypes or not options.each > 0 or options.candidates < 1:
        raise InputError("give at least one dtype, and seconds and candidates above 0")
    known = [f"sm_{architecture}" for architecture in GPU_SPECS]
    if options.model and options.arch not in known:
        raise InputError(f"--model needs --arch, one of {', '.join(known)}")
    if options.dry_run and options.out is None:
        raise InputError("a dry run's table is of no use: give it a folder of its own with --out")
    if options.model:
        device, architecture = None, int(options.arch.removeprefix("sm_"))
        has_fp8 = architecture >= FP8_ARCHITECTURE
    else:
        device = select_device(options)
        architecture, has_fp8 = architecture_of(device), supports_fp8(device)
    if "fp8" in dtypes and not has_fp8:
        raise InputError(f"sm_{architecture} has no FP8: leave it out of --dtypes")
    if options.model and "bfloat16" in dtypes:
        raise InputError("bfloat16 uses the tiles of float16 in a modelled table: leave it out of --dtypes")
    return device, architecture


def _write_modelled_table(problems: Sequence[ConvProblem], architecture: int, path: Path) -> int:
    gpu = GPU_SPECS[architecture].name
    table = modelled_table(problems, architecture)
    _write_table(path, architecture, "model", {"gpu": gpu}, table)
    print(printable(f"{path}: {_count(table)} tiles, ranked by a model of the {gpu}, not measured"))
    return 0


def _write_measured_table(
    problems: list[ConvProblem], architecture: int, path: Path, device: str, options: argparse.Namespace
) -> int:
    try:
        table = read_table(path) if path.is_file() and not options.again else {}
    except ValueError as error:
        raise InputError(str(error)) from None
    import torch

    torch.manual_seed(options.seed)
    random.Random(options.seed).shuffle(problems)
    sms = 4 if options.dry_run else torch.cuda.get_device_properties(0).multi_processor_count
    save = partial(_write_table, path, architecture, "measured", {"gpu": device_name(device), "seed": options.seed})
    left = measure_table(problems, table, options.seconds, options.each, device, sms, options.candidates, save)
    time_up = f"; time is up, {left} layers are left: call again" if left else ""
    print(printable(f"{path}: {_count(table)} tiles{time_up}"))
    return 0


def _write_table(path: Path, architecture: int, source: str, facts: dict[str, Any], table: TileTable) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(table_document(architecture, source, facts, table), encoding="utf-8")


def _count(table: TileTable) -> int:
    return sum(len(batches) for batches in table.values())


if __name__ == "__main__":
    run_program("kernels.autotune", main)
