"""Tables and JSON of what the stages return."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stylert.cli.console import console, table
from stylert.core.atomic import atomic_file

if TYPE_CHECKING:
    from stylert.export.tuning.tune import Tuning
    from stylert.export.verify import Accuracy
    from stylert.runtime.bundle import Bundle


def accuracy(rows: Sequence[Accuracy]) -> None:
    if rows:
        title = f"accuracy against {rows[0].reference}, {rows[0].seeds} seeds"
    else:
        title = "accuracy: nothing to compare; give --against model.safetensors"
    table(
        title,
        ["<backend", "<precision", "PSNR dB", "worst dB", "seed", "SSIM", "max /255", "off > 2", "perceptual", "needs dB", "<"],
        [
            (
                r.backend,
                r.precision,
                f"{r.psnr_db:.2f}",
                f"{r.worst_psnr_db:.2f}",
                r.worst_seed,
                f"{r.ssim:.4f}",
                f"{r.max_error:g}",
                f"{r.off_share:.2%}",
                "-" if r.perceptual is None else f"{r.perceptual:.4f}",
                f"{r.min_psnr_db:g}",
                "passed" if r.passed else "FAILED",
            )
            for r in rows
        ],
    )


def bundle_accuracy(bundle: Bundle) -> None:
    """What export measured, and which layers it left out of 8 bits."""
    for precision, entry in bundle.precisions.items():
        for backend, found in {"": entry.recipe, **entry.recipe.get("backends", {})}.items():
            for layer, reason in found.get("higher_precision", {}).items():
                where = f"{precision} on {backend}" if backend else precision
                console.print(f"{where}: {layer} stays in higher precision, {reason}", highlight=False, soft_wrap=True)
    for precision, entry in bundle.precisions.items():
        for backend, found in entry.accuracy.items():
            console.print(
                f"{precision} on {backend}: {found['psnr_db']:.2f} dB, worst {found['worst_psnr_db']:.2f} (seed {found['worst_seed']}), "
                f"SSIM {found['ssim']:.4f}, over {found['seeds']} seeds; promised {entry.min_psnr_db:g} dB",
                highlight=False,
                soft_wrap=True,
            )


def tuning(found: Tuning) -> None:
    """Every change that was tried, and what came of them together."""
    table(
        "changes tried, one at a time",
        ["<where", "<change", "time", "95 %", "pairs", "<"],
        [
            (
                t.where,
                t.change,
                f"{t.speed if t.ratio is None else t.ratio.value:.3f}",
                "remembered" if t.ratio is None else f"{t.ratio.low:.3f} to {t.ratio.high:.3f}",
                "" if t.ratio is None else t.ratio.pairs,
                "taken" if t.taken else "",
            )
            for t in found.search.trials
        ],
    )
    console.print(found.verdict, highlight=False, soft_wrap=True)


def accuracy_json(rows: Sequence[Accuracy]) -> list[dict[str, Any]]:
    return [{**asdict(r), "passed": r.passed} for r in rows]


def write_json(path: Path, content: dict[str, Any]) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")
