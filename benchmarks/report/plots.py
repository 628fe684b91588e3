"""The report's plots, as SVG in the page's own colours, and the same as PNG files."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stylert.benchmarks.report.compare import Comparison
from stylert.benchmarks.schema import row_name
from stylert.core.atomic import atomic_file
from stylert.core.errors import missing_extra

#: Okabe and Ito's palette, which the colour-blind can tell apart, less its black and yellow: they vanish on one background.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
GREY = "#808080"


def plots(document: dict[str, Any]) -> dict[str, Callable[[Any], None]]:
    """Name to the function that draws it into Matplotlib's `axes`, for what the document has figures of."""
    found: dict[str, Callable[[Any], None]] = {}
    single = [r for r in document["rows"] if r["scenario"] == "single-stream"]
    offline = [r for r in document["rows"] if r["scenario"] == "offline"]
    if single:
        found["latency"] = lambda axes: _latencies(axes, single)
    if len(offline) > 1:
        servers = [r for r in document["rows"] if r["scenario"] == "server"]
        found["throughput"] = lambda axes: _throughput(axes, offline, servers)
    timed = [p for p in document.get("layers", []) if p["unit"] == "ms"]
    if timed:
        found["layers"] = lambda axes: _layers(axes, timed)
    return found


def height(name: str, document: dict[str, Any]) -> float:
    """Inches that a plot needs at the page's width."""
    if name == "latency":
        return 0.9 + 0.42 * len([r for r in document["rows"] if r["scenario"] == "single-stream"])
    if name == "layers":
        return 1.2 + 0.22 * max(len(p["layers"]) for p in document["layers"]) * max(1, len(document["layers"]) / 2)
    return 3.6


def as_svg(draw: Callable[[Any], None], inches: float) -> str:
    """Inline SVG: text stays text, black becomes the page's ink. The same figures give the same bytes."""
    buffer = io.StringIO()
    _draw(draw, inches, lambda figure: figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None}))
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :].replace("#000000", "currentColor")


def write_png(draw: Callable[[Any], None], inches: float, path: Path) -> None:
    """The same on white, for documents. Atomic."""
    with atomic_file(path) as temporary:
        _draw(draw, inches, lambda figure: figure.savefig(temporary, format="png", dpi=150, facecolor="white"))


def comparison_plot(comparisons: Sequence[Comparison]) -> tuple[Callable[[Any], None], float]:
    """Ratios with their intervals, and the inches that they need."""
    lines = [(c, line) for c in comparisons for line in c.lines if line.difference is not None]

    def draw(axes: Any) -> None:
        several = len(comparisons) > 1
        for i, (_, line) in enumerate(lines):
            d = line.difference
            assert d is not None
            colour = {"faster": COLOURS[2], "slower": COLOURS[1]}.get(line.verdict, GREY)
            axes.plot([d.low, d.high], [i, i], color=colour, linewidth=2)
            axes.plot([d.ratio], [i], "o", color=colour)
        names = [f"{line.scenario} {line.name}" + (f" ({c.second})" if several else "") for c, line in lines]
        axes.set_yticks(range(len(lines)), names)
        axes.axvline(1, color=GREY, linewidth=1)
        axes.invert_yaxis()
        axes.set_xlabel("ratio to the first, 95 % interval; green faster, orange slower")

    return draw, 1.0 + 0.3 * len(lines)


def _draw(draw: Callable[[Any], None], inches: float, save: Callable[[Any], None]) -> None:
    try:
        import matplotlib
    except ImportError:
        raise missing_extra("Matplotlib", "bench") from None
    matplotlib.use("agg")
    from matplotlib import pyplot

    settings: Any = {"svg.hashsalt": "stylert", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}
    with pyplot.rc_context(settings):
        figure, axes = pyplot.subplots(figsize=(7.5, inches), layout="constrained")
        draw(axes)
        axes.grid(axis="x", color=GREY, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_facecolor("none")
        save(figure)
        pyplot.close(figure)


def _latencies(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Box plots; whiskers at p1 and p99."""
    axes.boxplot(
        [[v for r in row["rounds"] for v in r] for row in rows],
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
    """Latency over throughput: a line per configuration through its batch sizes, and what a server held."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    curves: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        curves.setdefault(row_name(row | {"work": row["work"] | {"batch": ""}}).rstrip(" ×"), []).append(row)
    for i, (name, found) in enumerate(curves.items()):
        found = sorted(found, key=lambda r: r["work"]["batch"])
        x, y = [r["value"] for r in found], [r["distribution"]["percentiles"]["50"]["value"] for r in found]
        colour, dash = COLOURS[i % len(COLOURS)], "-" if i < len(COLOURS) else "--"
        axes.plot(x, y, "o", linestyle=dash, color=colour, label=name, markersize=4)
        for row, a, b in zip(found, x, y, strict=True):
            axes.annotate(f"×{row['work']['batch']}", (a, b), textcoords="offset points", xytext=(4, 4), fontsize=7, color=GREY)
        for row in servers:
            if row["value"] and row_name(row | {"work": row["work"] | {"batch": ""}}).rstrip(" ×") == name:
                axes.plot([row["value"]], [row["distribution"]["percentiles"]["99"]["value"]], "*", color=colour, markersize=10)
    axes.set_xlabel("images per second (dots: batch sizes, median latency; stars: server, p99 at the rate held)")
    axes.set_ylabel("ms")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlim(left=0)
    axes.grid(axis="y", color=GREY, alpha=0.25)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def _layers(axes: Any, profiles: list[dict[str, Any]]) -> None:
    """Bars per layer, a colour per profile."""
    names = list(dict.fromkeys(layer["layer"] for p in profiles for layer in p["layers"]))
    names.sort(key=_layer_order)
    thickness = 0.8 / len(profiles)
    for i, profile in enumerate(profiles):
        times = {layer["layer"]: layer["value"] for layer in profile["layers"]}
        places = [n + (i - (len(profiles) - 1) / 2) * thickness for n in range(len(names))]
        label = row_name({"work": profile["work"], "setup": profile["setup"]})
        axes.barh(places, [times.get(n, 0) for n in names], thickness, color=COLOURS[i % len(COLOURS)], label=label)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("ms per call, with the profiler on")
    axes.legend(frameon=False, fontsize=8)


def _layer_order(name: str) -> tuple[int, str]:
    if name.startswith("b"):
        block, part = name[1:].split(".")
        return int(block), {"skip": "0"}.get(part, part)
    return (0, name) if name == "styles" else (10**6, name)
