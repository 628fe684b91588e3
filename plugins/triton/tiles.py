"""Tile configurations of the ModulatedConv2d kernels. No torch, no triton.

A tile is the block of output that one program computes, with its warps, pipeline stages, splits of the sum and grouping. It
comes from a table of the GPU's architecture, or from a rule.

A table is a JSON file per architecture, `sm_<NN>.json`. There are two folders of them:

- `tile_tables/` beside this file. Its `"source": "model"` says that `cost_model.py` chose the tiles and nobody measured
  them.
- `<cache>/stylert/tiles/`, or the folder of the environment variable STYLERT_TILES.
  `python -m stylert.benchmarks.kernels.autotune` measures on a GPU and writes here. These tables win.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from stylert.core.errors import InputError
from stylert.core.files.cache import cache_folder
from stylert.core.files.inputs import read_file
from stylert.core.files.json_documents import MAX_BYTES, read_document

SCHEMA = 1

#: Weight dtypes that tables know, and the bytes of one element.
ITEMSIZE = {"float16": 2, "bfloat16": 2, "float32": 4, "int8": 1, "fp8": 1}

#: The first compute capability with FP8 tensor cores.
FP8_ARCHITECTURE = 89

#: Compute capability of Hopper, whose sums of FP8 products are bounded in length.
HOPPER = 90


@dataclass(frozen=True)
class Tile:
    """Shape of one program's work.

    Attributes:
        m: Pixels, a power of two of at least 16.
        n: Output channels, likewise.
        k: Input channels per step, likewise.
        num_warps: Warps per program.
        num_stages: Steps that are loaded ahead.
        splits: Programs that share the sum of one tile.
        group: Blocks of pixels that go through all channels together (see `conv_parts.tile_coordinates`).
    """

    m: int
    n: int
    k: int
    num_warps: int = 4
    num_stages: int = 3
    splits: int = 1
    group: int = 1


@dataclass(frozen=True)
class ConvProblem:
    """The matrix product of one layer: `batch * pixels` rows by `o` columns, for each phase.

    Attributes:
        dtype: Dtype of the weights, a key of `ITEMSIZE`.
        batch: Samples.
        pixels: Input pixels of one sample.
        i: Input channels.
        o: Output channels.
        ksize: Width of the kernel.
        phases: 4 for a 2x up layer, else 1.
        architecture: Compute capability such as 90, or None without a GPU.
    """

    dtype: str
    batch: int
    pixels: int
    i: int
    o: int
    ksize: int
    phases: int
    architecture: int | None = None

    @property
    def layer(self) -> str:
        """The key in tables: everything but batch and architecture."""
        return f"{self.dtype} {self.ksize}x{self.ksize} {self.i}to{self.o} {self.pixels}px {self.phases}phase"


def choose_tile(problem: ConvProblem, *, allow_splits: bool = True, min_channels: int = 0) -> Tile:
    """The tile of `problem`: from the table of its architecture, at the nearest batch, else `default_tile`.

    Args:
        problem: The layer, its batch and its architecture.
        allow_splits: Whether the tile may split its sum.
        min_channels: The fewest output channels that the tile must have.

    Raises:
        ValueError: A file of tables that cannot be read.
    """
    if problem.architecture is not None:
        table = tables(problem.architecture)
        # A bfloat16 layer that was not measured takes the tile of float16.
        batches = table.get(problem.layer) or table.get(problem.layer.replace("bfloat16", "float16"), {})
        fitting = {b: tile for b, tile in batches.items() if (allow_splits or tile.splits == 1) and tile.n >= min_channels}
        if fitting:
            return fitting[min(fitting, key=lambda batch: abs(math.log2(batch / problem.batch)))]
    return default_tile(problem, min_channels)


def default_tile(problem: ConvProblem, min_channels: int = 0) -> Tile:
    """A tile by rule, never with a split sum.

    Half precision takes up to 128x128. Float32 tiles have a quarter of that area: their operands are twice as wide, and
    the three-product form keeps two copies. Layers of few pixels (4 to 16 px) take low tiles, so that more programs
    share the reading of the weights.

    Args:
        problem: The layer.
        min_channels: The fewest output channels that the tile must have.
    """
    itemsize = ITEMSIZE[problem.dtype]
    rows = problem.batch * problem.pixels
    largest = 64 if itemsize == 4 else 128
    n = min(largest, max(16, _next_power_of_2(problem.o)))
    m = min(largest, max(16, _next_power_of_2(rows)))
    k = min(largest // 2, max(32 if itemsize == 1 else 16, _next_power_of_2(problem.i)))
    if rows <= 1024:
        m, n = min(m, 64), min(n, 64)
    if n < min_channels:
        n = max(16, _next_power_of_2(min_channels))
        m = max(16, min(m, 8192 // n))
    return Tile(m, n, k, num_warps=8 if m * n >= 128 * 128 else 4, num_stages=3)


def tables(architecture: int) -> Mapping[str, Mapping[int, Tile]]:
    """Layer to batch to tile on one architecture. A layer that was measured here wins over the package's.

    Raises:
        ValueError: A file that is no table of this schema.
    """
    return _tables(architecture, str(measured_tables_folder()))


def measured_tables_folder() -> Path:
    """The folder of the tables that were measured on this machine."""
    if folder := os.environ.get("STYLERT_TILES"):
        return Path(folder)
    return cache_folder() / "tiles"


def read_table(path: Path) -> dict[str, dict[int, Tile]]:
    """Layer to batch to tile, from a file.

    Raises:
        ValueError: The file is no table of this schema.
    """
    try:
        document = read_document(read_file(path, InputError, MAX_BYTES), dict[str, Any], str(path), InputError)
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {document['schema']}")
        layers = {
            str(layer): {int(batch): tile_from_list(values) for batch, values in batches.items()}
            for layer, batches in document["layers"].items()
        }
    except (InputError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} is no table of tiles ({error}): delete it, or make it anew with stylert.benchmarks.kernels.autotune"
        ) from None
    return layers


def table_document(architecture: int, source: str, facts: Mapping[str, Any], layers: Mapping[str, Mapping[int, Tile]]) -> str:
    """The text of a table's file.

    Args:
        architecture: Compute capability such as 90.
        source: "model" or "measured".
        facts: More fields that say how the table was made.
        layers: Layer to batch to tile.
    """
    rows = {layer: {str(batch): astuple(tile) for batch, tile in batches.items()} for layer, batches in layers.items()}
    lines = ",\n".join(f"    {json.dumps(layer)}: {json.dumps(batches)}" for layer, batches in rows.items())
    head = json.dumps({"schema": SCHEMA, "architecture": f"sm_{architecture}", "source": source, **facts}, indent=2)
    return f'{head[:-2]},\n  "layers": {{\n{lines}\n  }}\n}}\n'


def tile_from_list(values: Sequence[int]) -> Tile:
    """A tile from a list in a table: the fields of `Tile` in their order.

    Raises:
        ValueError: A size that is no power of two of at least 16, a count below 1, or another number of values.
    """
    if type(values) is not list or len(values) != 7 or any(type(v) is not int for v in values):
        raise ValueError(f"a tile is seven whole numbers, not {values}")
    if any(v < 16 or v & (v - 1) for v in values[:3]) or min(values) < 1:
        raise ValueError(f"no such tile: {values}")
    return Tile(*values)


@functools.cache
def _tables(architecture: int, measured_folder: str) -> dict[str, dict[int, Tile]]:
    layers: dict[str, dict[int, Tile]] = {}
    for folder in (Path(__file__).parent / "tile_tables", Path(measured_folder)):
        path = folder / f"sm_{architecture}.json"
        if os.path.isfile(path):  # False as well in a folder that may not be searched, unlike `Path.is_file`
            layers |= read_table(path)
    return layers


def _next_power_of_2(value: int) -> int:
    """The least power of two that is not below `value`."""
    return 1 << max(0, value - 1).bit_length()
