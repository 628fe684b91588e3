#!/usr/bin/env python3
"""Draw the quality of one or several runs over thousands of images, from the `metrics.jsonl` that training writes.

    stylert train --data cats.zip --out run --preset cpu --snap 5 --metrics fd2k
    python examples/metrics_curve.py run --out quality.png
    python examples/metrics_curve.py run other-run --metric KID-EffNetLite0 --out both.png

A ring marks the lowest value of each run, which is in its `best.safetensors`.
"""

from __future__ import annotations

from stylert.core.programs.stop_signals import end_quietly

if __name__ == "__main__":
    end_quietly()  # until `run_program`: the imports below take their time

import argparse
import os
from pathlib import Path

from stylert.benchmarks.report.plots import PNG_MARK, import_pyplot
from stylert.core.errors import DataError, InputError, printable, shown
from stylert.core.files.atomic import atomic_file
from stylert.core.files.inputs import read_file
from stylert.core.files.json_documents import read_document
from stylert.core.programs.runner import run_program
from stylert.runtime.media.pictures import check_own_picture

FILE = "metrics.jsonl"
#: Bytes of this file, at most.
MAX_BYTES = 64 * 2**20
#: Keys of a line that are no metric.
FACTS = ("noise", "best")
#: Bounds of the numbers that are drawn. Matplotlib cannot place marks on an axis of larger ones. A run has less than 1e9 kimg.
MAX_KIMG, MAX_VALUE = 1e9, 1e300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help=f"folders with a {FILE}")
    parser.add_argument("--metric", help="name of the metric; by default the first of the first run")
    parser.add_argument("--out", type=Path, required=True, help="the picture, a file .png; a picture of others is not replaced")
    args = parser.parse_args()
    if args.out.suffix != ".png":
        raise InputError(f"the picture {args.out} must end in .png")
    check_own_picture(args.out)
    lines = {}
    for run in args.runs:
        lines[os.path.basename(os.path.realpath(run)) if len(args.runs) == 1 else str(run)] = read_lines(run / FILE)
    metric = args.metric or next((k for rows in lines.values() for k in rows[0] if k != "kimg"), None)
    if metric is None:
        raise DataError(f"{args.runs[0]} has no metrics")
    curves = {}
    for run, rows in lines.items():
        points = {row["kimg"]: row[metric] for row in rows if metric in row}
        if not points:
            raise DataError(f"{run} has no values of {shown(metric)}")
        curves[run] = sorted(points.items())  # a resumed run may have measured a kimg twice: the last counts
    draw(curves, metric, args.out)
    for run, points in curves.items():
        kimg, value = min(points, key=lambda point: point[1])
        print(printable(f"{run}: {len(points)} snapshots, {metric} is lowest at {kimg:g} kimg: {value:.4g}"))


def read_lines(path: Path) -> list[dict[str, float]]:
    """The numbers of each line of a file: its kimg, and its metrics by name.

    Lines that a kill cut off are left out, as are those of older versions, with other noise, and metrics that are not finite.

    Raises:
        DataError: No line is left, or a number is beyond its bounds.
    """
    rows = []
    for text in read_file(path, DataError, MAX_BYTES).splitlines():
        try:
            row = read_document(text, dict, str(path), DataError)
        except DataError:
            continue
        numbers = {name: float(value) for name, value in row.items() if name not in FACTS and type(value) in (int, float)}
        if "kimg" in numbers and row.get("noise") == "random":
            if not 0 <= numbers["kimg"] <= MAX_KIMG:
                raise DataError(f"{path} has a line of {numbers['kimg']:g} kimg, which are from 0 to {MAX_KIMG:g}")
            if wrong := [name for name, value in numbers.items() if abs(value) > MAX_VALUE]:
                raise DataError(f"{path} has a {shown(wrong[0])} of {numbers[wrong[0]]:g}, beyond {MAX_VALUE:g}")
            rows.append(numbers)
    if not rows:
        raise DataError(f"{path} has no lines of metrics with random noise")
    return rows


def draw(curves: dict[str, list[tuple[float, float]]], metric: str, path: Path) -> None:
    plt = import_pyplot()
    from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for run, points in curves.items():
        (line,) = axes.plot(*zip(*points, strict=True), marker=".", label=run)
        axes.plot(*min(points, key=lambda point: point[1]), "o", markersize=10, markerfacecolor="none", color=line.get_color())
    values = [value for points in curves.values() for _, value in points]
    if min(values) > 0 and max(values) > 4 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.set(xlabel="thousands of images shown to the discriminator", ylabel=f"{metric} (lower is better)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png", metadata=PNG_MARK)
    plt.close(figure)


if __name__ == "__main__":
    run_program("metrics_curve", main)
