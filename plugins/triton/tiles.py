"""Which tile a ModulatedConv2d takes: from a table of its GPU's architecture, or by rule where the table is silent.

Tables are JSON files, one per architecture. `plugins/tile_tables/` has those of the package: `"source": "model"` says that
a model of occupancy and traffic chose them (`cost_model.py`), and nobody measured. `python -m stylert.benchmarks.kernels.autotune`
measures on a GPU and writes `<cache>/stylert/tiles/sm_<NN>.json`, which goes before the package's. The environment variable
STYLERT_TILES names another folder to read them from. No torch, no triton.
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

from stylert.core.cache import cache_folder

SCHEMA = 1

#: Weight dtypes that tables know, and the bytes of one element.
ITEMSIZE = {"float16": 2, "bfloat16": 2, "float32": 4, "int8": 1, "fp8": 1}

#: The first compute capability whose tensor cores take FP8.
FP8_ARCHITECTURE = 89


@dataclass(frozen=True)
class Tile:
    """Shape of one program's work: `m` pixels by `n` output channels, in steps of `k` input channels.

    `splits` programs share a tile's sum. `group` blocks of pixels go through all channels together (see `conv_programs.place`).
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
    """One product: `batch * pixels` rows by `o` columns for each of `phases`, over `ksize`^2 taps of `i` channels.

    `dtype` is that of the weights, `architecture` a compute capability such as 90, or None where there is no GPU.
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
        """The key of tables: everything but batch and architecture."""
        return f"{self.dtype} {self.ksize}x{self.ksize} {self.i}to{self.o} {self.pixels}px {self.phases}phase"


def choose_tile(problem: ConvProblem, *, whole: bool = False, columns: int = 0) -> Tile:
    """The tile of `problem`: that of the nearest batch in its architecture's table, or by rule.

    `whole` rules out tiles whose sum is split; a tile of at least `columns` channels is wanted.
    """
    if problem.architecture is not None:
        known = tables(problem.architecture)
        # What suits float16 suits bfloat16, where that was not measured by itself.
        batches = known.get(problem.layer) or known.get(problem.layer.replace("bfloat16", "float16"), {})
        fits = {b: t for b, t in batches.items() if (t.splits == 1 or not whole) and t.n >= columns}
        if fits:
            return fits[min(fits, key=lambda batch: abs(math.log2(batch / problem.batch)))]
    return rule(problem, columns)


def rule(problem: ConvProblem, columns: int = 0) -> Tile:
    """A tile by reasoning alone; never a split sum.

    Half precision takes 128x128 where both sides fill it. Float32 tiles are a quarter of that, because their operands
    are twice as wide and the three-product form keeps two copies. Few pixels (4 to 16 px layers) take low tiles, so that
    there are more programs to share the reading of the weights.
    """
    itemsize = ITEMSIZE[problem.dtype]
    rows = problem.batch * problem.pixels
    n = min(64 if itemsize == 4 else 128, max(16, _power_of_2(problem.o)))
    k = min(32 if itemsize == 4 else 64, max(32 if itemsize == 1 else 16, _power_of_2(problem.i)))
    m = min(64 if itemsize == 4 else 128, max(16, _power_of_2(rows)))
    if rows <= 1024:
        m, n = min(m, 64), min(n, 64)
    if n < columns:
        n = max(16, _power_of_2(columns))
        m = max(16, min(m, 8192 // n))
    return Tile(m, n, k, num_warps=8 if m * n >= 128 * 128 else 4, num_stages=3)


def tables(architecture: int) -> Mapping[str, Mapping[int, Tile]]:
    """Layer to batch to tile on one architecture: what was measured here, and what the package brings for the rest."""
    return _tables(architecture, str(folder()))


def read_table(path: Path) -> dict[str, dict[int, Tile]]:
    """A table's layers.

    Raises:
        ValueError: the file is no table of this schema.
    """
    try:
        document = json.loads(path.read_text())
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {document['schema']}")
        layers = {
            str(layer): {int(batch): tile_of(tile) for batch, tile in batches.items()}
            for layer, batches in document["layers"].items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} is no table of tiles ({error}): delete it, or make it anew with stylert.benchmarks.kernels.autotune"
        ) from None
    return layers


def table_document(architecture: int, source: str, facts: Mapping[str, Any], layers: Mapping[str, Mapping[int, Tile]]) -> str:
    """A table as text: `source` is "model" or "measured", `facts` say how it came about."""
    rows = {layer: {str(batch): astuple(tile) for batch, tile in batches.items()} for layer, batches in layers.items()}
    lines = ",\n".join(f"    {json.dumps(layer)}: {json.dumps(batches)}" for layer, batches in rows.items())
    head = json.dumps({"schema": SCHEMA, "architecture": f"sm_{architecture}", "source": source, **facts}, indent=2)
    return f'{head[:-2]},\n  "layers": {{\n{lines}\n  }}\n}}\n'


def tile_of(values: Sequence[int]) -> Tile:
    """A tile from a table's list: the fields of `Tile` in their order.

    Raises:
        ValueError: a size that is no power of two of at least 16, a count that is not positive, or another number of them.
    """
    if type(values) is not list or len(values) != 7 or any(type(v) is not int for v in values):
        raise ValueError(f"a tile is seven whole numbers, not {values}")
    if any(v < 16 or v & (v - 1) for v in values[:3]) or min(values) < 1:
        raise ValueError(f"no such tile: {values}")
    return Tile(*values)


def folder() -> Path:
    """Where this machine's measured tables are."""
    if chosen := os.environ.get("STYLERT_TILES"):
        return Path(chosen)
    return cache_folder() / "tiles"


@functools.cache
def _tables(architecture: int, measured: str) -> dict[str, dict[int, Tile]]:
    shipped = Path(__file__).parent / "tile_tables"
    layers: dict[str, dict[int, Tile]] = {}
    for place in (shipped, Path(measured)):
        path = place / f"sm_{architecture}.json"
        if path.is_file():
            layers |= read_table(path)
    return layers


def _power_of_2(value: int) -> int:
    """The least power of two that is not below `value`."""
    return 1 << max(0, value - 1).bit_length()
