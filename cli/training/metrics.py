"""`stylert metrics`: a checkpoint beside real images, or alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stylert.cli.app import split_list
from stylert.cli.console import progress, table
from stylert.core.cache import cache_folder
from stylert.core.errors import InputError, missing_extra
from stylert.models.checkpoint import generator_module
from stylert.models.importers.imported import read_any_generator


def run_metrics(
    checkpoint: Path,
    data: Path | None,
    floor: Path | None,
    images: int,
    names: str,
    inception: Path | None = None,
    lpips: str | None = None,
) -> dict[str, Any]:
    """Compute, print and return metrics and, with `floor`, the same between two sets of real images.

    Raises InputError for an unknown metric, too few images for one, or one that lacks what it needs.
    """
    try:
        from stylert.train.metrics.evaluator import Evaluator, Metric, Source
    except ImportError:
        raise missing_extra("PyTorch", "train") from None
    chosen = [Metric.parse(name, images) for name in dict.fromkeys(split_list(names) or [])]
    if not chosen:
        raise InputError("--metrics names none")
    files = tuple(Path(part) for part in split_list(lpips) or [])
    with progress() as bar:
        evaluator = Evaluator(chosen, Source(data, floor, inception, files, cache_folder() / "features"), bar)
        values = evaluator.evaluate(generator_module(read_any_generator(checkpoint)))
        floors = evaluator.floor()
    counts = sorted({m.images for m in chosen})
    title = f"{', '.join(map(str, counts))} generated images"
    title += f" beside {evaluator.real_images} real ones" if evaluator.real_images else ""
    table(
        title,
        ["<metric", "generated", *(["real (floor)"] if floors else [])],
        [(k, f"{v:.5g}", *([f"{floors[k]:.5g}" if k in floors else ""] if floors else [])) for k, v in values.items()],
    )
    facts: dict[str, Any] = {"images": [max(counts), evaluator.real_images], "metrics": values}
    return facts | ({"floor": floors} if floors else {})
