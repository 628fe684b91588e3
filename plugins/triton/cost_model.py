"""How long a tile should take on a GPU that nobody has measured: occupancy, waves and traffic, from data sheets.

The shipped tables (`tile_tables/`) are made of this, with registers and shared memory from the compiler's report. It ranks
tiles; its microseconds are no prediction. A program's time is the largest of its arithmetic, its reads from the L2 cache and
the latency of its steps; programs run in waves of as many as registers, shared memory and warps let an SM hold; and no
layer is faster than its operands come from memory. No torch, no triton.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from stylert.core.gpu_specs import GPU_SPECS, GpuSpec
from stylert.plugins.triton.tiles import ITEMSIZE, ConvProblem, Tile

#: Seconds that a load takes when nothing hides it, and that one more kernel costs inside a CUDA graph. Round figures.
LOAD_LATENCY = 0.6e-6
KERNEL_GAP = 1.5e-6


@dataclass(frozen=True)
class Usage:
    """What the compiler made of a tile: registers per thread, shared memory per program, bytes spilled per thread."""

    registers: int
    shared: int
    spills: int = 0


def candidates(dtype: str) -> list[Tile]:
    """Tiles worth compiling for weights of `dtype`, the sum whole."""
    if dtype == "float32":
        shapes = [(64, 64, 32, 4), (64, 32, 32, 4), (32, 32, 32, 4), (16, 64, 32, 4)]
    else:
        shapes = [(128, 128, 64, 8), (128, 64, 64, 4), (64, 64, 64, 4), (128, 32, 32, 4), (32, 64, 64, 4), (16, 64, 64, 4)]
    return [Tile(*shape) for shape in shapes]


def variations(problem: ConvProblem, tile: Tile, sms: int) -> list[Tile]:
    """A tile as it is, in groups where many columns share the pixels, and with its sum split where its programs fill no GPU.

    None of a tile that is wider than the layer has channels.
    """
    if tile.n >= 2 * max(problem.o, 32):
        return []
    blocks = math.ceil(problem.batch * problem.pixels / tile.m)
    columns = problem.phases * math.ceil(problem.o / tile.n)
    variants = [tile]
    if blocks >= 16 and columns >= 4:
        variants.append(replace(tile, group=8))
    splits = 2
    while blocks * columns * splits <= 4 * sms and splits <= _steps(problem, tile) // 2:
        variants.append(replace(tile, splits=splits))
        splits *= 2
    return variants


def promising(problem: ConvProblem, sms: int, count: int) -> list[Tile]:
    """The `count` tiles, variations among them, that the model would measure first, on the GPU that it knows of the architecture."""
    gpu = GPU_SPECS.get(problem.architecture or 0, GPU_SPECS[90])
    known = problem if problem.dtype in gpu.tflops else replace(problem, dtype="float16")
    tiles = [v for tile in candidates(problem.dtype) for v in variations(problem, tile, sms)]
    return sorted(tiles, key=lambda tile: seconds(known, tile, nominal(problem, tile), gpu))[:count]


def resident(gpu: GpuSpec, tile: Tile, usage: Usage) -> int:
    """Programs that one SM holds at a time, at least 0."""
    # Registers are given out to warps in units of 256, and a program takes 1 KiB of shared memory for itself.
    registers = math.ceil(usage.registers * 32 / 256) * 256 * tile.num_warps
    return min(65536 // registers, gpu.shared_bytes // (usage.shared + 1024), gpu.warps // tile.num_warps, 32)


def seconds(problem: ConvProblem, tile: Tile, usage: Usage, gpu: GpuSpec) -> float:
    """The model's time for one layer; infinite where a program does not fit."""
    held = resident(gpu, tile, usage)
    if held == 0:
        return math.inf
    size = ITEMSIZE[problem.dtype]
    activation = 2 if size == 1 else size
    rows, steps = problem.batch * problem.pixels, math.ceil(_steps(problem, tile) / tile.splits)
    programs = math.ceil(rows / tile.m) * problem.phases * math.ceil(problem.o / tile.n) * tile.splits
    # The kernels compute float32 as three TF32 products.
    tflops = gpu.tf32x3_tflops if problem.dtype == "float32" else gpu.tflops[problem.dtype]
    peak = tflops * 1e12 / gpu.sms
    per_step = 2 * tile.m * tile.n * tile.k / peak
    read = (tile.m * activation + tile.n * size) * tile.k / (gpu.l2_bytes_per_clock * gpu.clock_ghz * 1e9)
    hidden = LOAD_LATENCY / tile.num_stages

    def wave(together: int) -> float:
        # Four sub-cores with a tensor unit each want two warps apiece.
        busy = min(1.0, together * tile.num_warps / 8)
        return steps * max(together * per_step / busy, together * read, hidden)

    capacity = gpu.sms * held
    time = programs // capacity * wave(held)
    if rest := programs % capacity:
        time += wave(math.ceil(rest / gpu.sms))
    sums = rows * problem.phases * problem.o
    moved = rows * problem.i * activation + sums * activation + problem.phases * problem.o * problem.i * problem.ksize**2 * size
    time = max(time, moved / (gpu.bandwidth * 1e9)) * (2 if usage.spills else 1)
    if tile.splits > 1:
        # Written to the L2 cache and read again, by one more kernel.
        time += KERNEL_GAP + 2 * 4 * sums * tile.splits / (gpu.sms * gpu.l2_bytes_per_clock * gpu.clock_ghz * 1e9)
    return time


def best(problem: ConvProblem, usages: dict[Tile, Usage], gpu: GpuSpec) -> Tile:
    """The tile that the model likes best, of those in `usages` and their variations; the first of equals."""
    choices = [(variant, usage) for tile, usage in usages.items() for variant in variations(problem, tile, gpu.sms)]
    return min(choices, key=lambda choice: seconds(problem, choice[0], choice[1], gpu))[0]


def nominal(problem: ConvProblem, tile: Tile) -> Usage:
    """What a tile takes before it has been compiled: its operands once per stage, and registers as these kernels have on average."""
    size = ITEMSIZE[problem.dtype]
    return Usage(160, tile.num_stages * tile.k * (tile.m * (2 if size == 1 else size) + tile.n * size))


def _steps(problem: ConvProblem, tile: Tile) -> int:
    return problem.ksize**2 * math.ceil(problem.i / tile.k)
