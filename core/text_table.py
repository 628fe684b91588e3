"""Text tables for terminals that have no formatting."""

from __future__ import annotations

from collections.abc import Sequence


def aligned_columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines of text, every column as wide as its widest cell.

    Args:
        rows: At least one row; all have as many cells as the first.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
