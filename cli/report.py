"""Tables and JSON of what the stages return."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stylert.cli.console import console, table
from stylert.runtime.atomic import atomic_file

if TYPE_CHECKING:
    from stylert.export.verify import Accuracy


def accuracy(rows: Sequence[Accuracy]) -> None:
    if rows:
        title = f"accuracy against {rows[0].reference}, {rows[0].seeds} seeds"
    else:
        title = "accuracy: nothing to compare; give --against model.safetensors"
    table(
        title,
        ["<backend", "<precision", "PSNR dB", "worst dB", "seed", "max /255", "mean /255", "needs dB", "<"],
        [
            (
                r.backend,
                r.precision,
                f"{r.psnr_db:.2f}",
                f"{r.worst_psnr_db:.2f}",
                r.worst_seed,
                f"{r.max_error:g}",
                f"{r.mean_error:.4f}",
                f"{r.min_psnr_db:g}",
                "passed" if r.passed else "FAILED",
            )
            for r in rows
        ],
    )


def accuracy_json(rows: Sequence[Accuracy]) -> list[dict[str, Any]]:
    return [{**asdict(r), "passed": r.passed} for r in rows]


def write_json(path: Path, content: dict[str, Any]) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")
