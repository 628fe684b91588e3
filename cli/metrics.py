"""`stylert metrics`: distance of a checkpoint's images to real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stylert.cli.console import progress, table
from stylert.runtime.errors import missing_extra
from stylert.train.checkpoint import generator_module
from stylert.train.importers.imported import read_any_generator


def run_metrics(checkpoint: Path, data: Path, floor: Path | None, images: int) -> dict[str, Any]:
    """Compute, print and return the metric and, with `floor`, the same between two sets of real images."""
    try:
        from stylert.train.metrics import NAME, FeatureExtractor, frechet_distance, generated_features, real_features
    except ImportError:
        raise missing_extra("PyTorch", "train") from None
    generator = generator_module(read_any_generator(checkpoint))
    with progress() as bar:
        extractor = FeatureExtractor()
        real = real_features(extractor, data, images, lambda d, t: bar("real images", d, t))
        fake = generated_features(extractor, generator, images, lambda d, t: bar("generated images", d, t))
        facts: dict[str, Any] = {"metric": NAME, "images": [len(real), len(fake)], "value": frechet_distance(fake, real)}
        rows = [(NAME, "generated against real", f"{facts['value']:.3f}")]
        if floor is not None:
            other = real_features(extractor, floor, images, lambda d, t: bar("floor images", d, t))
            facts["floor"] = frechet_distance(other, real)
            rows.append((NAME, "real against real (floor)", f"{facts['floor']:.3f}"))
    table(f"{len(fake)} generated against {len(real)} real images", ["<metric", "<", "value"], rows)
    return facts
