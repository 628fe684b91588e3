"""A detector with random weights, as a file."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from stylert.runtime.watermark.detector_file import FORMAT_VERSION, DetectorFacts, View, write_detector

VIEWS = (View(32, False), View(26, False), View(32, True), View(26, True))


def random_weights(rng: np.random.Generator, bits: int = 32, side: int = 32, views: int = len(VIEWS)) -> dict[str, np.ndarray]:
    """Weights of a decoder, whose outputs are about as large as those of a trained one. The views leave them as they are."""
    channels, network = (3, 4, 4, 4, 4, 1), {}
    for i, (inputs, outputs) in enumerate(pairwise(channels)):
        network[f"residual.{i}.weight"] = rng.normal(0, (9 * inputs) ** -0.5, (outputs, inputs, 3, 3)).astype(np.float32)
        network[f"residual.{i}.bias"] = rng.normal(0, 0.1, outputs).astype(np.float32)
    return {**network, **_patterns_and_views(rng, bits, side, views)}


def filter_weights(rng: np.random.Generator, bits: int = 32, side: int = 32, views: int = len(VIEWS)) -> dict[str, np.ndarray]:
    """The same of format version 2, whose decoder has a filter in place of a network."""
    difference = rng.normal(0, 1 / side, (1, 3, 13, 13)).astype(np.float32)
    return {"difference": difference, **_patterns_and_views(rng, bits, side, views)}


def _patterns_and_views(rng: np.random.Generator, bits: int, side: int, views: int) -> dict[str, np.ndarray]:
    shapes = {"patterns": (bits, side, side), "bias": (bits,)}
    return {name: rng.normal(0, 1 / side, shape).astype(np.float32) for name, shape in shapes.items()} | {
        "view_matrices": np.repeat(np.eye(bits, dtype=np.float32)[None], views, 0),
        "view_means": np.zeros((views, bits), np.float32),
    }


def random_detector(path: Path, rng: np.random.Generator, bits: int = 32, **changes: Any) -> Path:
    """Write a detector of random weights with a random key. `changes` are fields of `DetectorFacts`."""
    facts: dict[str, Any] = {
        "version": FORMAT_VERSION,
        "key": "".join(map(str, rng.integers(0, 2, bits))),
        "views": VIEWS,
    }
    facts |= changes
    weights = random_weights if facts["version"] == FORMAT_VERSION else filter_weights
    write_detector(path, weights(rng, bits, views=len(facts["views"])), DetectorFacts(**facts))
    return path
