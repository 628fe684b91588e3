"""A model of how long a tile takes on a GPU, from its data sheet: occupancy, waves and traffic. No torch, no triton.

The tables in `tile_tables/` come from this model, with registers and shared memory as the compiler reports them. The
model ranks tiles. Its times are not predictions.

One step of a program takes the longest of three times: its arithmetic, its reads from the L2 cache, and the latency of
its loads. Programs run in waves. A wave is as many programs as the registers, shared memory and warps of all SMs hold.
No layer is faster than the time to move its operands from and to memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from stylert.core.machine.gpu_specs import GPU_SPECS, GpuSpec
from stylert.plugins.triton.tiles import ITEMSIZE, ConvProblem, Tile

#: Seconds of a load that nothing overlaps. A round figure.
LOAD_LATENCY = 0.6e-6
#: Seconds that one more kernel costs in a CUDA graph. A round figure.
KERNEL_GAP = 1.5e-6

#: The architecture that stands for one without a data sheet.
DEFAULT_ARCHITECTURE = 90


@dataclass(frozen=True)
class ResourceUsage:
    """What a compiled tile needs.

    Attributes:
        registers: Registers per thread.
        shared: Bytes of shared memory per program.
        spills: Bytes per thread that did not fit into registers.
    """

    registers: int
    shared: int
    spills: int = 0


def candidate_tiles(dtype: str) -> list[Tile]:
    """Tiles that are worth compiling for weights of `dtype`, without groups and split sums."""
    if dtype == "float32":
        sizes = [(64, 64, 32, 4), (64, 32, 32, 4), (32, 32, 32, 4), (16, 64, 32, 4)]
    else:
        sizes = [(128, 128, 64, 8), (128, 64, 64, 4), (64, 64, 64, 4), (128, 32, 32, 4), (32, 64, 64, 4), (16, 64, 64, 4)]
    return [Tile(*size) for size in sizes]


def tile_variants(problem: ConvProblem, tile: Tile, sms: int) -> list[Tile]:
    """A tile, and the same tile with groups and with split sums where they can help.

    Groups help if many columns share the same pixels. A split sum helps if the programs are too few for `sms` SMs. The
    list is empty if the tile is much wider than the layer has channels.
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


def ranked_tiles(problem: ConvProblem, sms: int, count: int) -> list[Tile]:
    """The `count` tiles that are fastest in the model, variants included, fastest first. Nothing is compiled.

    Args:
        problem: Its architecture decides which data sheet is used.
        sms: SMs of the GPU that will run the tiles.
        count: Length of the list.
    """
    gpu = GPU_SPECS.get(problem.architecture or 0, GPU_SPECS[DEFAULT_ARCHITECTURE])
    rated_problem = problem if problem.dtype in gpu.tflops else replace(problem, dtype="float16")

    def model_time(tile: Tile) -> float:
        return estimated_seconds(rated_problem, tile, nominal_usage(problem, tile), gpu)

    tiles = [variant for tile in candidate_tiles(problem.dtype) for variant in tile_variants(problem, tile, sms)]
    return sorted(tiles, key=model_time)[:count]


def best_tile(problem: ConvProblem, usages: dict[Tile, ResourceUsage], gpu: GpuSpec) -> Tile:
    """The fastest tile in the model, of those in `usages` and their variants. The first of equals wins."""
    choices = [(variant, usage) for tile, usage in usages.items() for variant in tile_variants(problem, tile, gpu.sms)]
    return min(choices, key=lambda choice: estimated_seconds(problem, choice[0], choice[1], gpu))[0]


def estimated_seconds(problem: ConvProblem, tile: Tile, usage: ResourceUsage, gpu: GpuSpec) -> float:
    """The model's time for one layer. Infinite if one program does not fit an SM."""
    programs_held = programs_per_sm(gpu, tile, usage)
    if programs_held == 0:
        return math.inf
    weight_size = ITEMSIZE[problem.dtype]
    activation_size = _activation_size(problem)
    rows, steps = problem.batch * problem.pixels, math.ceil(_steps(problem, tile) / tile.splits)
    programs = math.ceil(rows / tile.m) * problem.phases * math.ceil(problem.o / tile.n) * tile.splits
    # The kernels compute float32 as three TF32 products.
    tflops = gpu.tf32x3_tflops if problem.dtype == "float32" else gpu.tflops[problem.dtype]
    sm_rate = tflops * 1e12 / gpu.sms
    arithmetic = 2 * tile.m * tile.n * tile.k / sm_rate
    l2_read = (tile.m * activation_size + tile.n * weight_size) * tile.k / (gpu.l2_bytes_per_clock * gpu.clock_ghz * 1e9)
    latency = LOAD_LATENCY / tile.num_stages

    def wave_time(programs_on_sm: int) -> float:
        # An SM has four tensor units. Each needs two warps to be busy.
        busy = min(1.0, programs_on_sm * tile.num_warps / 8)
        return steps * max(programs_on_sm * arithmetic / busy, programs_on_sm * l2_read, latency)

    capacity = gpu.sms * programs_held
    time = programs // capacity * wave_time(programs_held)
    if rest := programs % capacity:
        time += wave_time(math.ceil(rest / gpu.sms))

    outputs = rows * problem.phases * problem.o
    weights = problem.phases * problem.o * problem.i * problem.ksize**2
    moved = rows * problem.i * activation_size + outputs * activation_size + weights * weight_size
    time = max(time, moved / (gpu.bandwidth * 1e9)) * (2 if usage.spills else 1)
    if tile.splits > 1:
        # One more kernel. The parts of the sum are written to the L2 cache and read again.
        time += KERNEL_GAP + 2 * 4 * outputs * tile.splits / (gpu.sms * gpu.l2_bytes_per_clock * gpu.clock_ghz * 1e9)
    return time


def programs_per_sm(gpu: GpuSpec, tile: Tile, usage: ResourceUsage) -> int:
    """Programs that one SM holds at a time. 0 if not even one fits."""
    # A warp gets registers in units of 256. A program needs 1 KiB of shared memory beside its own.
    registers = math.ceil(usage.registers * 32 / 256) * 256 * tile.num_warps
    return min(65536 // registers, gpu.shared_bytes // (usage.shared + 1024), gpu.warps // tile.num_warps, 32)


def nominal_usage(problem: ConvProblem, tile: Tile) -> ResourceUsage:
    """The resources of a tile that is not compiled: its operands once per stage, the registers of an average kernel."""
    bytes_per_channel = tile.m * _activation_size(problem) + tile.n * ITEMSIZE[problem.dtype]
    return ResourceUsage(160, tile.num_stages * tile.k * bytes_per_channel)


def _activation_size(problem: ConvProblem) -> int:
    """Bytes of one activation. 8-bit weights have float16 activations."""
    return max(2, ITEMSIZE[problem.dtype])


def _steps(problem: ConvProblem, tile: Tile) -> int:
    return problem.ksize**2 * math.ceil(problem.i / tile.k)
