"""Tables of tiles for ModulatedConv2d: `python -m stylert.benchmarks.kernels.autotune`.

On a machine with a GPU it measures: every layer of config F at 1024 px (or of fewer resolutions) in each dtype and batch, each
promising tile once for its result and then for its time, and writes the fastest to the table of the GPU's architecture, which the
kernels read from then on (`stylert.plugins.triton.tiles`). What the table has already is not measured again. It stops when
`--seconds` are spent, and goes on the next time.

`--model --arch sm_90` needs no GPU: it compiles the candidates and lets a model of the GPU rank them (`cost_model.py`). So
the tables that the package brings were made; they say so under `source`.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from stylert.benchmarks.kernels.command_line import (
    TOLERANCE,
    block_resolutions,
    chosen_names,
    command_line,
    device_for,
    device_name,
    has_fp8,
    run,
    time_calls,
)
from stylert.core.atomic import atomic_file, check_writable
from stylert.core.errors import BackendError, InputError
from stylert.core.gpu_specs import GPU_SPECS
from stylert.models.stylegan2.config import GeneratorConfig
from stylert.plugins.triton.cost_model import Usage, best, candidates, promising
from stylert.plugins.triton.tiles import FP8_ARCHITECTURE, ITEMSIZE, ConvProblem, Tile, folder, read_table, rule, table_document

Layers = dict[str, dict[int, Tile]]


def problems(
    config: GeneratorConfig, resolutions: Sequence[int], dtypes: Sequence[str], batches: Sequence[int], architecture: int
) -> Iterator[ConvProblem]:
    """Every product of the synthesis network that is not the same as one before it."""
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


def modelled(chosen: Sequence[ConvProblem], architecture: int, tell: Any = print) -> Layers:
    """The model's choice for each problem, of tiles compiled for `architecture` that spill nothing."""
    from stylert.plugins.aot import compile_variant, conv_variant

    layers: Layers = {}
    usages: dict[str, dict[Tile, Usage]] = {}
    for problem in chosen:
        if problem.ksize == 1:  # torgb is bound by memory at any tile, which the model cannot tell apart: by rule
            continue
        dtype = problem.dtype
        if dtype not in usages:
            usages[dtype] = {}
            for tile in candidates(dtype):
                entry = compile_variant(conv_variant("candidate", dtype, tile), f"sm_{architecture}")[2]
                usages[dtype][tile] = Usage(entry["registers"], entry["shared_bytes"], entry["spill_bytes"])
                tell(f"sm_{architecture} {dtype} {tile}: {usages[dtype][tile]}")
        tile = best(problem, usages[dtype], GPU_SPECS[architecture])
        layers.setdefault(problem.layer, {})[problem.batch] = tile
    return layers


def measured(
    chosen: Sequence[ConvProblem],
    layers: Layers,
    seconds: float,
    each: float,
    device: str,
    sms: int,
    count: int,
    save: Any,
    tell: Any = print,
) -> int:
    """Add the fastest tile of each problem that `layers` does not have; how many were left when `seconds` were spent."""
    deadline = time.perf_counter() + seconds
    todo = [p for p in chosen if p.batch not in layers.get(p.layer, {})]
    for done, problem in enumerate(todo):
        if time.perf_counter() > deadline:
            return len(todo) - done
        run, result = _layer(problem, device)
        first = rule(problem)
        run(first)
        reference = result().clone()
        times = {}
        for tile in dict.fromkeys([first, *promising(problem, sms, count)]):
            try:
                result().fill_(float("nan"))
                run(tile)
            except Exception as problem_of_tile:  # a tile that this GPU cannot hold: Triton has an error class per reason
                tell(f"{problem.layer} x{problem.batch}: {tile} does not run ({str(problem_of_tile).splitlines()[0][:80]})")
                continue
            error = float((result() - reference).abs().max() / reference.abs().max())
            if not error <= TOLERANCE[problem.dtype]:
                raise BackendError(f"{problem.layer} x{problem.batch}: {tile} is wrong, relative error {error:.2g}")
            times[tile] = statistics.median(time_calls(partial(run, tile), each, device))
        fastest = min(times, key=lambda tile: times[tile])
        tell(f"{problem.layer} x{problem.batch}: {fastest} {times[fastest]:.4f} ms, by rule {times[first]:.4f} ms")
        layers.setdefault(problem.layer, {})[problem.batch] = fastest
        save(layers)
    return 0


def _layer(problem: ConvProblem, device: str) -> tuple[Any, Any]:
    """A function that runs the layer at a tile on random operands, and one that gives its float32 result."""
    import torch

    from stylert.plugins.eight_bit import quantize_weight
    from stylert.plugins.shapes import Epilogue
    from stylert.plugins.triton.modulated_conv2d import modulated_conv2d_into, workspace_elements

    n, pixels, up = problem.batch, problem.pixels, 2 if problem.phases == 4 else 1
    size = int(pixels**0.5)
    eight_bit = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}.get(problem.dtype)
    dtype = torch.float16 if eight_bit else getattr(torch, problem.dtype)
    draw = partial(torch.randn, device=device)
    weight = draw(problem.phases, problem.o, problem.ksize, problem.ksize, problem.i)
    weight = quantize_weight(weight, eight_bit)[0] if eight_bit else (weight / (problem.i * problem.ksize**2) ** 0.5).to(dtype)
    x, style = draw(n, size, size, problem.i).to(dtype), draw(n, problem.i) * (30 if eight_bit else 1)
    demod = draw(n, problem.o).abs() / (10000 if eight_bit else 1)
    y = torch.empty(n, size * up, size * up, problem.o, device=device, dtype=dtype)
    precision = "ieee" if device == "cpu" and problem.dtype in ("bfloat16", "fp8") else "tf32x3"

    def run(tile: Tile) -> None:
        work = None
        if elements := workspace_elements(n, pixels, problem.o, problem.phases, tile.splits):
            work = torch.empty(elements, device=device, dtype=torch.int32 if problem.dtype == "int8" else torch.float32)
        modulated_conv2d_into(
            y, x, weight, style, demod, tail=Epilogue.of("lrelu"), tile=tile, precision=precision, workspace=work
        )

    return run, lambda: y if y.dtype == torch.float32 else y.float()


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit status 2 on a wrong argument or result, or where there is nothing to measure with."""
    parser = command_line(
        "kernels.autotune", __doc__, resolutions="", batches="1,8", seconds=300, what="in all; a later call goes on"
    )
    parser.add_argument("--model", action="store_true", help="rank by a model, without a GPU")
    parser.add_argument("--arch", help="with --model: such as sm_90")
    parser.add_argument(
        "--dtypes", default="float16,int8", help=f"comma-separated, of {', '.join(ITEMSIZE)}; default: float16,int8"
    )
    parser.add_argument("--each", type=float, default=0.05, help="seconds for each candidate")
    parser.add_argument(
        "--candidates", type=int, default=6, help="tiles to measure for each layer, those that a model likes best"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the order of layers and of their operands")
    parser.add_argument("--again", action="store_true", help="forget what was measured before")
    parser.add_argument("--out", type=Path, help="folder for the table, default: where the kernels look for it")
    return run(_run, parser, arguments)


def _run(options: argparse.Namespace) -> int:
    config, resolutions = block_resolutions(options)
    dtypes = chosen_names(options.dtypes, tuple(ITEMSIZE), "dtype")
    if not dtypes or not options.each > 0 or options.candidates < 1:
        raise InputError("give at least one dtype, and seconds and candidates above 0")
    if options.model and options.arch not in {f"sm_{number}" for number in GPU_SPECS}:
        raise InputError(f"--model needs --arch, one of {', '.join(f'sm_{number}' for number in GPU_SPECS)}")
    if options.dry_run and options.out is None:
        raise InputError("a dry run's table is of no use: give it a folder of its own with --out")
    device = None if options.model else device_for(options)
    architecture = int(options.arch.removeprefix("sm_")) if device is None else 0 if device == "cpu" else _this_architecture()
    if "fp8" in dtypes and not (architecture >= FP8_ARCHITECTURE if device is None else has_fp8(device)):
        raise InputError(f"sm_{architecture} has no FP8: leave it out of --dtypes")
    if options.model and "bfloat16" in dtypes:
        raise InputError("the model knows no bfloat16, which takes what float16 has: leave it out of --dtypes")
    chosen = list(problems(config, resolutions, dtypes, options.batches, architecture))
    path = (options.out or folder()) / f"sm_{architecture}.json"
    check_writable(path)
    name = GPU_SPECS[architecture].name if device is None else device_name(device)
    facts: dict[str, Any] = {"gpu": name} if device is None else {"gpu": name, "seed": options.seed}

    def save(layers: Layers) -> None:
        with atomic_file(path) as partial_file:
            partial_file.write_text(table_document(architecture, "model" if device is None else "measured", facts, layers))

    if device is None:
        layers = modelled(chosen, architecture)
        save(layers)
        print(f"{path}: {sum(map(len, layers.values()))} tiles, ranked by a model of the {name}, not measured")
        return 0
    try:
        layers = read_table(path) if path.is_file() and not options.again else {}
    except ValueError as error:
        raise InputError(str(error)) from None
    import torch

    torch.manual_seed(options.seed)
    random.Random(options.seed).shuffle(chosen)
    sms = 4 if options.dry_run else torch.cuda.get_device_properties(0).multi_processor_count
    left = measured(chosen, layers, options.seconds, options.each, device, sms, options.candidates, save)
    print(
        f"{path}: {sum(map(len, layers.values()))} tiles" + (f"; time is up, {left} layers to go: call again" if left else "")
    )
    return 0


def _this_architecture() -> int:
    import torch

    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


if __name__ == "__main__":
    sys.exit(main())
