"""The picture of a grid is its only copy: drawing needs little more memory than the picture."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from stylert.core.errors import InputError
from stylert.runtime.bundle import Bundle
from stylert.runtime.media.recipes import Recipe
from stylert.runtime.media.rendering import picture
from tests.runtime.steering.random_files import NUM_WS, STYLES, W_DIM, random_directions

SIDE = 256


class Painter:
    """In place of a `Generator`: an image has the mean of its latents as its shade."""

    def __init__(self, network: str) -> None:
        model = {"z_dim": 8, "w_dim": W_DIM, "c_dim": 0}
        self.bundle: Any = Mock(
            spec=Bundle,
            num_ws=NUM_WS,
            resolution=SIDE,
            pixels=SIDE * SIDE,
            channels=(),
            model=model,
            style_channels=STYLES,
            path=Path("bundle"),
            provenance={"checkpoint_sha256": network},
        )

    def map(self, z: np.ndarray, psi: float, *_: object) -> np.ndarray:
        return np.full((len(z), NUM_WS, W_DIM), psi, np.float32) * z[:, :1, None]

    def synthesize(self, ws: np.ndarray, style_offsets: np.ndarray | None = None) -> np.ndarray:
        shades = 128 + 20 * ws.mean((1, 2)) + (0 if style_offsets is None else style_offsets.mean(1))
        return np.broadcast_to(shades.clip(0, 255).astype(np.uint8)[:, None, None, None], (len(ws), SIDE, SIDE, 3))


STRENGTHS = ",".join(map(str, range(-8, 8)))
RECIPES = {
    "grid": {"seeds": range(160)},
    "mix": {"seeds": range(9), "columns": tuple(range(15)), "levels": (0, 1)},
    "sweep": {"seeds": range(10), "psi": [i / 16 for i in range(16)]},
    "edit": {"seeds": range(10), "moves": (f"smile={STRENGTHS}", "b4.conv1.7=1")},
    "sheet": {"seeds": [3], "moves": tuple(f"{name}={STRENGTHS}" for name in ("smile", "b4.conv1.7") * 5)},
}


@pytest.mark.parametrize("command", RECIPES)
def test_a_grid_is_drawn_in_little_more_memory_than_its_picture_has(command: str, rng: np.random.Generator) -> None:
    directions = replace(random_directions(rng), sha256="cd" * 32)
    fields: dict[str, Any] = {"psi": [1.0], **RECIPES[command]}
    if "moves" in fields:
        fields["directions"] = directions.sha256
    fields |= {"seeds": tuple(fields["seeds"]), "psi": tuple(fields["psi"])}
    recipe = Recipe(command=command, version="1", bundle="ab" * 32, backend="b", precision="fp32", **fields)
    progress: list[tuple[int, int]] = []
    painter: Any = Painter(directions.network)
    tracemalloc.start()
    drawn = picture(painter, recipe, lambda _, done, total: progress.append((done, total)), directions)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert drawn.nbytes >= 30 * 2**20
    assert peak < 1.1 * drawn.nbytes
    assert progress[-1][0] == progress[-1][1]


def test_values_of_a_network_that_are_not_finite_are_told(rng: np.random.Generator) -> None:
    recipe = Recipe(command="grid", version="1", bundle="ab" * 32, backend="b", precision="fp32", seeds=(1, 2), psi=(1.0,))
    painter: Any = Painter("ab" * 32)
    painter.synthesize = lambda ws, **_: np.full((len(ws), 3, SIDE, SIDE), np.nan, np.float32)
    with pytest.raises(InputError, match="not finite"):
        picture(painter, recipe)
