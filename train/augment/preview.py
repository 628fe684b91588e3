"""A contact sheet of the augmentations: each group at each probability p."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from stylert.core.images.grids import as_uint8
from stylert.train.augment.pipeline import augment

ROWS = ("blit", "geom", "color", "filter", "noise", "cutout", "bgc", "bgcfnc", "diffaug")
PROBABILITIES = (0.0, 0.25, 0.5, 1.0)
GAP = 6
FONT_SIZE = 14


def contact_sheet(
    images: np.ndarray,
    pipelines: Sequence[str] = ROWS,
    probabilities: Sequence[float] = PROBABILITIES,
    tile: int = 96,
    seed: int = 0,
) -> np.ndarray:
    """A labelled sheet with one row per pipeline and one block of columns per p. Every block shows the same images.

    Args:
        images: uint8 `[N, H, W, C]`. They are augmented at this size, and then resized so that the longer side is that of a tile.
        pipelines: Names of `PIPELINES`.
        probabilities: The values of p.
        tile: Side of each shown image in pixels.
        seed: Seed of the transformations.

    Returns:
        uint8 `[H, W, 3]`.
    """
    n = len(images)
    x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float() / 127.5 - 1
    font = ImageFont.load_default(FONT_SIZE)
    left = int(max(font.getlength(name) for name in pipelines)) + 2 * GAP
    top, block_width, row_height = FONT_SIZE + 2 * GAP, n * tile + GAP, tile + GAP
    sheet = Image.new("RGB", (left + len(probabilities) * block_width, top + len(pipelines) * row_height), "white")
    draw = ImageDraw.Draw(sheet)
    for column, p in enumerate(probabilities):
        draw.text((left + column * block_width, GAP), f"p = {p:g}", "black", font)
    with torch.random.fork_rng(devices=[]):
        for row, name in enumerate(pipelines):
            y = top + row * row_height
            draw.text((GAP, y + (tile - FONT_SIZE) // 2), name, "black", font)
            for column, p in enumerate(probabilities):
                torch.manual_seed(seed)
                for i, image in enumerate(as_uint8(augment(x, p, name).numpy())):
                    scale = tile / max(image.shape[:2])
                    size = max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1)
                    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).resize(size)
                    sheet.paste(picture, (left + column * block_width + i * tile, y))
    return np.asarray(sheet)
