"""Small bundles of restoration networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stylert.export.restoration.network import restoration_model
from stylert.models.restoration.checkpoints import RestorerWeights, read_restorer
from stylert.runtime.bundle_files import PrecisionEntry, file_entries
from stylert.runtime.restoration.bundle import RestorerBundle
from tests.models.restoration.public_files import public_file


def write_bundle(folder: Path, network: str = "gfpgan", resolution: int = 16) -> tuple[RestorerBundle, RestorerWeights]:
    """A bundle with the float32 network, without the measurements of an export."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = read_restorer(public_file(folder.parent, network, resolution, 1 / 128))
    (folder / "restorer.fp32.onnx").write_bytes(restoration_model(weights).SerializeToString())
    entries = {"fp32": PrecisionEntry("restorer.fp32.onnx", 60.0)}
    files = file_entries(folder, ["restorer.fp32.onnx"])
    RestorerBundle(folder, network, resolution, files, entries, {}).save()
    return RestorerBundle.load(folder), weights


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 `[height, width, 3]`."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
