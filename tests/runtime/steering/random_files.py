"""Random directions and latents of a small network, for tests."""

from __future__ import annotations

import numpy as np

from stylert.runtime.steering.directions_file import Direction, Directions
from stylert.runtime.steering.latents_file import Latents

NUM_WS, W_DIM, STYLES = 6, 20, 40


def random_directions(rng: np.random.Generator, network: str = "ab" * 32) -> Directions:
    """One direction that moves all latents, one that moves the first two, and one of styles."""
    w, coarse, styles = (rng.standard_normal(n).astype(np.float32) for n in (W_DIM, W_DIM, STYLES))
    by_name = {
        "smile": Direction("w", w, tuple(range(NUM_WS)), "scores", {"correlation": 0.5}),
        "pose.1": Direction("w", coarse, (0, 1), "PCA"),
        "b4.conv1.7": Direction("styles", styles),
    }
    return Directions(network, NUM_WS, W_DIM, STYLES, by_name)


def random_latents(rng: np.random.Generator) -> Latents:
    """Latents of two pictures."""
    ws = rng.standard_normal((2, NUM_WS, W_DIM)).astype(np.float32)
    return Latents("ab" * 32, ws, ("me", "cat.2"), {"psnr_db": 31.5})
