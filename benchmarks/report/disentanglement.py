"""The page of `stylert disentanglement`: one HTML file that works offline."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stylert.benchmarks.report.page import page_template, render_page

TEMPLATE = "disentanglement.html"
#: Larger pictures are drawn down to this side, in pixels.
PICTURE_SIDE = 160
#: Attributes below the pictures of a direction: those that it changes most
LISTED = 6


def check_page() -> None:
    """Raise BackendError if the page cannot be drawn, before a long measurement."""
    page_template(TEMPLATE)


def write_page(document: dict[str, Any], pictures: Sequence[np.ndarray], path: str | Path) -> None:
    """Write the page of a document that `stylert disentanglement --json` writes.

    Args:
        document: The document.
        pictures: For each direction of the document its pictures, uint8 `[S, P, R, R, C]`: one column per strength.
        path: The page.

    Raises:
        BackendError: Jinja2 is not installed.
        OutputError: The page cannot be written.
    """
    strips = [
        {"pictures": [_png(column) for column in columns], "listed": _most_changed(direction)}
        for direction, columns in zip(document["directions"], pictures, strict=True)
    ]
    render_page(TEMPLATE, path, document=document, strips=strips, shade=_shade)


def _most_changed(direction: dict[str, Any]) -> list[str]:
    """The names of the attributes below the pictures: the target first, and then those that change most."""
    sizes, target = direction["sizes"], direction["target"]
    ordered: list[str] = sorted(sizes, key=lambda name: (name != target, -sizes[name]))
    return ordered[:LISTED]


def _shade(change: float, size: float | None = None) -> str:
    """The colour of a change: red for more, blue for less, full from one deviation on.

    Args:
        change: The mean change.
        size: The mean size of the change, if the colour shows this. It is violet if most of it has no common sense.
    """
    size = abs(change) if size is None else size
    colour = (140, 90, 170) if abs(change) < size / 2 else (205, 75, 45) if change > 0 else (45, 110, 205)
    return f"rgba({', '.join(map(str, colour))}, {0.85 * min(size, 1.0):.2f})"


def _png(images: np.ndarray) -> str:
    """Images `[P, R, R, C]` below each other, as PNG in base64."""
    side = min(images.shape[1], PICTURE_SIDE)
    column = np.concatenate(list(images))
    picture = Image.fromarray(column[..., 0] if column.shape[2] == 1 else column)
    buffer = io.BytesIO()
    picture.resize((side, side * len(images)), Image.Resampling.BOX).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
