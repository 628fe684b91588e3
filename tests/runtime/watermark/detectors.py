"""A detector with random weights, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stylert.runtime.watermark.detector_file import FORMAT_VERSION, DetectorFacts, View, write_detector

VIEWS = (View(32, False), View(26, False), View(32, True), View(26, True))


def random_weights(rng: np.random.Generator, bits: int = 32, side: int = 32, views: int = len(VIEWS)) -> dict[str, np.ndarray]:
    """Weights of a decoder, whose outputs are about as large as those of a trained one. The views leave them as they are."""
    whitening = {
        "view_matrices": np.repeat(np.eye(bits, dtype=np.float32)[None], views, 0),
        "view_means": np.zeros((views, bits), np.float32),
    }
    shapes = {"difference": (1, 3, 13, 13), "patterns": (bits, side, side), "bias": (bits,)}
    return {name: rng.normal(0, 1 / side, shape).astype(np.float32) for name, shape in shapes.items()} | whitening


def random_detector(path: Path, rng: np.random.Generator, bits: int = 32, **changes: Any) -> Path:
    """Write a detector of random weights with a random key. `changes` are fields of `DetectorFacts`."""
    facts: dict[str, Any] = {
        "version": FORMAT_VERSION,
        "key": "".join(map(str, rng.integers(0, 2, bits))),
        "views": VIEWS,
    }
    facts |= changes
    write_detector(path, random_weights(rng, bits, views=len(facts["views"])), DetectorFacts(**facts))
    return path
