"""A contact sheet of the augmentations, so that a person can see what each group does at each p."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from stylert.train.augment.pipeline import augment

ROWS = ("blit", "geom", "color", "filter", "noise", "cutout", "bgc", "bgcfnc")
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
    """One row per pipeline, one block of columns per p, the same images in each; labelled.

    `images` uint8 `[N, S, S, 1 or 3]` are augmented at their own size, then shown `tile` pixels wide. Returns uint8
    `[H, W, 3]`. The same seed gives the same sheet.
    """
    n = len(images)
    x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float() / 127.5 - 1
    font = ImageFont.load_default(FONT_SIZE)
    margin = int(max(font.getlength(name) for name in pipelines)) + 2 * GAP
    top, block = FONT_SIZE + 2 * GAP, n * tile + GAP
    sheet = Image.new("RGB", (margin + len(probabilities) * block, top + len(pipelines) * (tile + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, p in enumerate(probabilities):
        draw.text((margin + column * block, GAP), f"p = {p:g}", "black", font)
    with torch.random.fork_rng(devices=[]):
        for row, name in enumerate(pipelines):
            y = top + row * (tile + GAP)
            draw.text((GAP, y + (tile - FONT_SIZE) // 2), name, "black", font)
            for column, p in enumerate(probabilities):
                torch.manual_seed(seed)
                shown = ((augment(x, p, name) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
                for i, picture in enumerate(shown):
                    tiled = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture).resize((tile, tile))
                    sheet.paste(tiled, (margin + column * block + i * tile, y))
    return np.asarray(sheet)
