"""The best snapshot of a run by a metric: a record of every measurement, and a copy of the generator that was best so far."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from stylert.core.atomic import atomic_file
from stylert.models.stylegan2.networks import Generator

METRICS_FILE = "metrics.jsonl"
BEST_FILE = "best.safetensors"

#: Metrics of a generator by name, the one that decides first; the lower the better.
Score = Callable[[Generator], Mapping[str, float]]


def keep_if_best(out: Path, model: Path, kimg: float, values: Mapping[str, float]) -> bool:
    """Write down what was measured at `kimg`, and copy `model` to `best.safetensors` if its first value is the lowest so far.

    The record outlives the process, so a resumed run compares with what came before it. Returns whether it was the best.
    """
    name, value = next(iter(values.items()))
    earlier = [v for line in _read(out / METRICS_FILE) if isinstance(v := line.get(name), int | float) and math.isfinite(v)]
    best = math.isfinite(value) and value < min(earlier, default=math.inf)
    if best:
        with atomic_file(out / BEST_FILE) as temporary:
            shutil.copyfile(model, temporary)
    # After the copy: a kill in between leaves a record that lacks a line, never one that tells of a file that is not there.
    with open(out / METRICS_FILE, "a") as f:
        f.write(json.dumps({"kimg": kimg, **values, "best": best}) + "\n")
    return best


def _read(path: Path) -> list[dict[str, object]]:
    """The lines that are whole; a kill may have cut the last one."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines
