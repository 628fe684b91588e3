"""The plots of a report and of a comparison, as inline SVG and as PNG files.

A plot is a function that draws into Matplotlib's `axes`.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from stylert.benchmarks.report.comparison import Comparison
from stylert.benchmarks.schema import row_name
from stylert.core.errors import missing_extra
from stylert.core.files.atomic import atomic_file
from stylert.core.files.temporary import temporary_folder
from stylert.runtime.media.image_metadata import PNG_KEY

#: The palette of Okabe and Ito, which colour-blind people can tell apart. Black and yellow are left out: each of them is
#: invisible on one of the two backgrounds.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
GREY = "#808080"
#: StyleGAN2's name of a layer, such as `b8.conv0`.
LAYER = re.compile(r"b(?P<resolution>[0-9]{1,5})\.(?P<part>.+)")

#: The comment by which stylert knows its own pictures.
PNG_MARK = {PNG_KEY: '{"command": "bench"}'}

#: Draws into Matplotlib's `axes`.
Plot = Callable[[Any], None]


PLOT_NAMES = ("latency", "throughput", "layers")


def plots(document: dict[str, Any]) -> dict[str, Plot]:
    """The plots of a report by name. A plot without figures in the document is missing."""
    drawings: dict[str, Plot] = {}
    single, offline, servers = (_rows(document, name) for name in ("single-stream", "offline", "server"))
    if single:
        drawings["latency"] = lambda axes: _latencies(axes, single)
    if len(offline) > 1:
        drawings["throughput"] = lambda axes: _throughput(axes, offline, servers)
    timed = [profile for profile in document.get("layers", []) if profile["unit"] == "ms"]
    if timed:
        drawings["layers"] = lambda axes: _layers(axes, timed)
    return drawings


def height(name: str, document: dict[str, Any]) -> float:
    """Height of a plot of the report, in inches, at the width of the page."""
    if name == "latency":
        return 0.9 + 0.42 * len(_rows(document, "single-stream"))
    if name == "layers":
        return 1.2 + 0.22 * max(len(p["layers"]) for p in document["layers"]) * max(1, len(document["layers"]) / 2)
    return 3.6


def as_svg(draw: Plot, inches: float) -> str:
    """A plot as inline SVG with real text, in the text colour of the page. The same figures give the same bytes."""
    buffer = io.StringIO()
    _draw(draw, inches, lambda figure: figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None}))
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :].replace("#000000", "currentColor")


def write_png(draw: Plot, inches: float, path: Path) -> None:
    """Write a plot on a white background, atomically."""
    with atomic_file(path) as temporary:
        _draw(
            draw, inches, lambda figure: figure.savefig(temporary, format="png", dpi=150, facecolor="white", metadata=PNG_MARK)
        )


def comparison_plot(comparisons: Sequence[Comparison]) -> tuple[Plot, float]:
    """The plot of the ratios with their intervals, and its height in inches."""
    rows = [(row, comparison.second) for comparison in comparisons for row in comparison.rows if row.difference is not None]

    def draw(axes: Any) -> None:
        for i, (row, _) in enumerate(rows):
            difference = row.difference
            assert difference is not None
            colour = {"faster": COLOURS[2], "slower": COLOURS[1]}.get(row.outcome, GREY)
            axes.plot([difference.low, difference.high], [i, i], color=colour, linewidth=2)
            axes.plot([difference.ratio], [i], "o", color=colour)
        names = [f"{row.scenario} {row.name}" for row, _ in rows]
        if len(comparisons) > 1:
            names = [f"{name} ({file})" for name, (_, file) in zip(names, rows, strict=True)]
        axes.set_yticks(range(len(rows)), names)
        axes.axvline(1, color=GREY, linewidth=1)
        axes.invert_yaxis()
        axes.set_xlabel("ratio to the first, 95 % interval; green faster, orange slower")

    return draw, 1.0 + 0.3 * len(rows)


def _rows(document: dict[str, Any], scenario: str) -> list[dict[str, Any]]:
    return [row for row in document["rows"] if row["scenario"] == scenario]


def _draw(draw: Plot, inches: float, save: Callable[[Any], None]) -> None:
    pyplot = import_pyplot()
    settings: Any = {"svg.hashsalt": "stylert", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}
    with pyplot.rc_context(settings):
        figure, axes = pyplot.subplots(figsize=(7.5, inches), layout="constrained")
        draw(axes)
        axes.grid(axis="x", color=GREY, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_facecolor("none")
        save(figure)
        pyplot.close(figure)


def import_pyplot() -> Any:
    """Matplotlib's `pyplot` with its own defaults, drawing to files.

    Matplotlib obeys a file `matplotlibrc` in the working folder, by which it also starts LaTeX on a text of that file. The file may
    lie beside somebody's data, so Matplotlib is imported from another folder. Settings of the user would change the pages.

    Raises:
        BackendError: The extra is not installed.
    """
    with _empty_working_folder() if "matplotlib" not in sys.modules else contextlib.nullcontext():
        try:
            import matplotlib
        except ImportError:
            raise missing_extra("Matplotlib", "bench") from None
    matplotlib.rcdefaults()
    matplotlib.rcParams["text.parse_math"] = False  # names of files, models and layers are no formulas
    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot


@contextlib.contextmanager
def _empty_working_folder() -> Iterator[None]:
    """Work in an empty folder for a moment."""
    with temporary_folder("plots") as folder:
        before = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.chdir(folder)
            yield
        finally:
            os.fchdir(before)
            os.close(before)


def _latencies(axes: Any, rows: list[dict[str, Any]]) -> None:
    """A box plot for each row, with whiskers at p1 and p99."""
    axes.boxplot(
        [[sample for samples in row["rounds"] for sample in samples] for row in rows],
        orientation="horizontal",
        whis=(1, 99),
        showfliers=False,
        widths=0.6,
        patch_artist=True,
        boxprops={"facecolor": COLOURS[0], "edgecolor": COLOURS[0]},
        medianprops={"color": COLOURS[4], "linewidth": 2},
        whiskerprops={"color": GREY},
        capprops={"color": GREY},
    )
    axes.set_yticklabels([row_name(r) for r in rows])
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds per image (box: quartiles, line: median, whiskers: p1 and p99)")
    axes.set_xlim(left=0)


def _throughput(axes: Any, rows: list[dict[str, Any]], servers: list[dict[str, Any]]) -> None:
    """Latency over throughput: a line per configuration through its batch sizes, and a star for the rate of its server."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    curves: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        curves.setdefault(_name_without_batch(row), []).append(row)
    for i, (name, unsorted_rows) in enumerate(curves.items()):
        curve = sorted(unsorted_rows, key=lambda row: row["work"]["batch"])
        rates = [row["value"] for row in curve]
        medians_ms = [row["distribution"]["percentiles"]["50"]["value"] for row in curve]
        colour, style = COLOURS[i % len(COLOURS)], "-" if i < len(COLOURS) else "--"
        axes.plot(rates, medians_ms, "o", linestyle=style, color=colour, label=name, markersize=4)
        for row, x, y in zip(curve, rates, medians_ms, strict=True):
            label = f"×{row['work']['batch']}"
            axes.annotate(label, (x, y), textcoords="offset points", xytext=(4, 4), fontsize=7, color=GREY)
        for server in servers:
            if server["value"] and _name_without_batch(server) == name:
                p99_ms = server["distribution"]["percentiles"]["99"]["value"]
                axes.plot([server["value"]], [p99_ms], "*", color=colour, markersize=10)
    axes.set_xlabel("images per second (dots: batch sizes, median latency; stars: server, p99 at the highest rate that held)")
    axes.set_ylabel("ms")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlim(left=0)
    axes.grid(axis="y", color=GREY, alpha=0.25)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def _layers(axes: Any, profiles: list[dict[str, Any]]) -> None:
    """A bar for each layer of each profile."""
    names = list(dict.fromkeys(layer["layer"] for p in profiles for layer in p["layers"]))
    names.sort(key=_layer_order)
    thickness = 0.8 / len(profiles)
    for i, profile in enumerate(profiles):
        times = {layer["layer"]: layer["value"] for layer in profile["layers"]}
        offset = (i - (len(profiles) - 1) / 2) * thickness
        positions = [n + offset for n in range(len(names))]
        label = row_name({"work": profile["work"], "setup": profile["setup"]})
        axes.barh(positions, [times.get(n, 0) for n in names], thickness, color=COLOURS[i % len(COLOURS)], label=label)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("ms per call, with the profiler on")
    axes.legend(frameon=False, fontsize=8)


def _name_without_batch(row: dict[str, Any]) -> str:
    return row_name(row | {"work": row["work"] | {"batch": ""}}).rstrip(" ×")


def _layer_order(name: str) -> tuple[int, str]:
    """Sort key: `styles`, then the blocks, each with its skip first, then everything else."""
    if match := LAYER.fullmatch(name):
        return int(match["resolution"]), "0" if match["part"] == "skip" else match["part"]
    return (0, name) if name == "styles" else (10**6, name)
