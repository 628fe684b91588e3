"""Results of the stages as tables and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from stylert.cli.console import print_line, print_table

if TYPE_CHECKING:
    from stylert.core.statistics import Ratio
    from stylert.export.tuning.tune import Tuning
    from stylert.export.verify import Accuracy
    from stylert.runtime.bundle import Bundle


def show_accuracy(rows: Sequence[Accuracy]) -> None:
    """Print a verification, a row per precision and backend."""
    if rows:
        title = f"accuracy against {rows[0].reference}, {rows[0].seeds} seeds"
    else:
        title = "accuracy: nothing to compare; give --against model.safetensors"
    print_table(
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
    for r in rows:
        _show_channels(f"{r.precision} on {r.backend}", [asdict(channel) for channel in r.channels])


def _show_channels(network: str, channels: Sequence[Mapping[str, Any]]) -> None:
    """Print the errors of each channel of measured values, or of a picture with alpha. Nothing for grey and RGB pictures."""
    errors = [
        f"{c['name']} {c['psnr_db']:.2f} dB (rms error {c['rms_error']:.3g}, bound {c['rms_bound']:.3g} {c['unit']}".rstrip()
        + ")"
        for c in channels
    ]
    if errors:
        print_line(f"{network}, each channel: {', '.join(errors)}")


def show_bundle_accuracy(bundle: Bundle) -> None:
    """Print the accuracy that export measured, and the layers that it left out of 8 bits."""
    for precision, entry in bundle.precisions.items():
        for backend, recipe in {"": entry.recipe, **entry.recipe.get("backends", {})}.items():
            network = f"{precision} on {backend}" if backend else precision
            for layer, reason in recipe.get("higher_precision", {}).items():
                print_line(f"{network}: {layer} stays in higher precision, {reason}")
    for precision, entry in bundle.precisions.items():
        for backend, figures in entry.accuracy.items():
            worst = f"worst {figures['worst_psnr_db']:.2f} (seed {figures['worst_seed']})"
            measured = f"{figures['psnr_db']:.2f} dB, {worst}, SSIM {figures['ssim']:.4f}, over {figures['seeds']} seeds"
            print_line(f"{precision} on {backend}: {measured}; promised {entry.min_psnr_db:g} dB")
            _show_channels(f"{precision} on {backend}", figures.get("channels", ()))


def show_tuning(tuning: Tuning) -> None:
    """Print every change of a form that was tried, and the result of all together."""
    print_table(
        "changes tried, one at a time",
        ["<where", "<change", "time", "95 %", "pairs", "<"],
        [
            (
                t.where,
                t.change,
                "-" if t.refused else f"{t.time_ratio if t.ratio is None else t.ratio.value:.3f}",
                "-" if t.refused else "measured before" if t.ratio is None else _interval(t.ratio),
                "" if t.ratio is None else t.ratio.pairs,
                "refused" if t.refused else "taken" if t.taken else "",
            )
            for t in tuning.search.trials
        ],
    )
    for reason in dict.fromkeys(t.refused for t in tuning.search.trials if t.refused):
        print_line(f"refused: {reason}")
    print_line(tuning.verdict)


def _interval(ratio: Ratio) -> str:
    low, high = ("?" if bound is None else f"{bound:.3f}" for bound in (ratio.low, ratio.high))
    return f"{low} to {high}"


def accuracy_json(rows: Sequence[Accuracy]) -> list[dict[str, Any]]:
    """A verification as JSON values."""
    return [{**asdict(r), "passed": r.passed} for r in rows]
