"""A detector with random weights, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stylert.runtime.watermark.detector_file import FORMAT_VERSION, DetectorFacts, View, write_detector


def random_weights(rng: np.random.Generator, bits: int = 32, side: int = 32) -> dict[str, np.ndarray]:
    """Weights of a decoder, whose outputs are about as large as those of a trained one."""
    shapes = {"difference": (1, 3, 13, 13), "patterns": (bits, side, side), "bias": (bits,)}
    return {name: rng.normal(0, 1 / side, shape).astype(np.float32) for name, shape in shapes.items()}


def random_detector(path: Path, rng: np.random.Generator, bits: int = 32, **changes: Any) -> Path:
    """Write a detector of random weights with a random key. `changes` are fields of `DetectorFacts`."""
    facts: dict[str, Any] = {
        "version": FORMAT_VERSION,
        "key": "".join(map(str, rng.integers(0, 2, bits))),
        "views": (View(32, 1.0), View(26, 1.0)),
    }
    write_detector(path, random_weights(rng, bits), DetectorFacts(**{**facts, **changes}))
    return path
