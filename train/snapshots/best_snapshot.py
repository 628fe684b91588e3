"""The best snapshot of a run: every metric measured so far, and a copy of the best generator."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from stylert.core.errors import DataError
from stylert.core.files.atomic import append_line, atomic_file
from stylert.core.files.inputs import read_file
from stylert.core.files.json_documents import read_document
from stylert.models.stylegan2.generator import NoiseMode
from stylert.models.stylegan2.networks import Generator

METRICS_FILE = "metrics.jsonl"
BEST_FILE = "best.safetensors"
#: Bytes of `metrics.jsonl`, at most.
MAX_LINES_BYTES = 64 * 2**20

#: Noise of the images that are measured, which every line names. Earlier versions measured images with constant noise,
#: which have a larger distance. Their lines name no noise, and are not compared.
NOISE: NoiseMode = "random"

#: Computes the metrics of a generator, by name. Lower is better, and the first one decides which snapshot is best.
Evaluate = Callable[[Generator], Mapping[str, float]]


def keep_if_best(out: Path, model: Path, kimg: float, values: Mapping[str, float]) -> bool:
    """Append metrics to `metrics.jsonl`, and copy the generator to `best.safetensors` if its first one is the lowest.

    The comparison includes the lines that an earlier process of the same run wrote, if they name the same noise.

    Args:
        out: Folder of the run.
        model: The generator file that was measured.
        kimg: Thousands of images that the discriminator had seen.
        values: The metrics by name. A first value that is not finite is never the best.

    Returns:
        Whether this generator is the best so far.
    """
    name, value = next(iter(values.items()))
    earlier = [line.get(name) for line in _read_lines(out / METRICS_FILE) if line.get("noise") == NOISE]
    finite = [v for v in earlier if isinstance(v, int | float) and math.isfinite(v)]
    best = math.isfinite(value) and value < min(finite, default=math.inf)
    # The copy comes first: after a kill in between, a line is missing, but no line names a file that does not exist.
    if best:
        with atomic_file(out / BEST_FILE, within=out) as temporary:
            shutil.copyfile(model, temporary)
    append_line(out / METRICS_FILE, {"kimg": kimg, **values, "noise": NOISE, "best": best}, within=out)
    return best


def _read_lines(path: Path) -> list[dict[str, object]]:
    """The JSON objects of a file, one per line. Damaged lines are left out, as a kill may have cut the last one."""
    if not path.exists():
        return []
    lines = []
    for text in read_file(path, DataError, MAX_LINES_BYTES).splitlines():
        with suppress(DataError):
            lines.append(read_document(text, dict[str, object], METRICS_FILE, DataError))
    return lines
