"""`stylert metrics`: distances of a checkpoint's images to real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stylert.cli.app import check_choice, split_list
from stylert.cli.console import progress, table
from stylert.runtime.errors import InputError, missing_extra
from stylert.train.checkpoint import generator_module
from stylert.train.importers.imported import read_any_generator

METRICS = ("fd", "kid", "pr")


def run_metrics(checkpoint: Path, data: Path, floor: Path | None, images: int, names: str = "fd") -> dict[str, Any]:
    """Compute, print and return the metrics and, with `floor`, the same between two sets of real images.

    Raises InputError for an unknown metric, or too few images for one.
    """
    try:
        from stylert.train.distances import NEIGHBOURS
        from stylert.train.metrics import FeatureExtractor, cache_folder, generated_features, real_features
    except ImportError:
        raise missing_extra("PyTorch", "train") from None
    chosen = list(dict.fromkeys(split_list(names) or []))
    for name in chosen:
        check_choice(name, METRICS, "--metrics")
    if "pr" in chosen and images <= NEIGHBOURS:
        raise InputError(f"precision and recall need more than {NEIGHBOURS} images")
    generator, cache = generator_module(read_any_generator(checkpoint)), cache_folder()
    other = None
    with progress() as bar:
        extractor = FeatureExtractor()
        real = real_features(extractor, data, images, lambda d, t: bar("real images", d, t), cache)
        fake = generated_features(extractor, generator, images, lambda d, t: bar("generated images", d, t))
        if floor is not None:
            other = real_features(extractor, floor, images, lambda d, t: bar("floor images", d, t), cache)
    values = _values(chosen, fake, real)
    floors = {} if other is None else _values(chosen, other, real)
    table(
        f"{len(fake)} generated against {len(real)} real images",
        ["<metric", "generated", *(["real (floor)"] if floors else [])],
        [(name, f"{v:.5g}", *([f"{floors[name]:.5g}"] if floors else [])) for name, v in values.items()],
    )
    facts: dict[str, Any] = {"images": [len(fake), len(real)], "metrics": values}
    return facts | ({"floor": floors} if floors else {})


def _values(chosen: list[str], fake: np.ndarray, real: np.ndarray) -> dict[str, float]:
    from stylert.train.distances import frechet_distance, kernel_distance, precision_recall
    from stylert.train.metrics import NETWORK

    values = {}
    if "fd" in chosen:
        values[f"FD-{NETWORK}"] = frechet_distance(fake, real)
    if "kid" in chosen:
        values[f"KID-{NETWORK}"] = kernel_distance(fake, real)
    if "pr" in chosen:
        values[f"precision-{NETWORK}"], values[f"recall-{NETWORK}"] = precision_recall(fake, real)
    return values
