"""`report.html`: one self-contained page with accuracy beside speed, the distributions, samples and the machine."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from stylert.runtime.atomic import atomic_file
from stylert.runtime.errors import missing_extra


def write_report(results: dict[str, Any], pictures: dict[str, Path], path: str | Path) -> None:
    """Render `results` (the content of `results.json`) with PNG `pictures` by caption. Opens offline. Atomic."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError:
        raise missing_extra("Jinja2", "bench") from None

    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("report.html").render(
        **results,
        plot=_latency_plot(results["latency"]),
        pictures={caption: base64.b64encode(file.read_bytes()).decode() for caption, file in pictures.items()},
        accuracy_of={(a["backend"], a["precision"]): a for a in results["accuracy"]},
    )
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _latency_plot(rows: list[dict[str, Any]]) -> str:
    """Box plots of every row's latencies as inline SVG; whiskers at p1 and p99."""
    try:
        import matplotlib
    except ImportError:
        raise missing_extra("Matplotlib", "bench") from None
    matplotlib.use("svg")
    from matplotlib import pyplot

    # Fixed ids and no date: the same results draw the same bytes. Text stays text, in the page's own colours.
    with pyplot.rc_context({"svg.hashsalt": "stylert", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}):
        figure, axes = pyplot.subplots(figsize=(7.5, 0.42 * len(rows) + 0.9), layout="constrained")
        axes.boxplot(
            [row["samples_ms"] for row in rows],
            orientation="horizontal",
            whis=(1, 99),
            showfliers=False,
            widths=0.6,
            patch_artist=True,
            boxprops={"facecolor": "#2a78d6", "edgecolor": "#2a78d6"},
            medianprops={"color": "#eb6834", "linewidth": 2},
            whiskerprops={"color": "#808080"},
            capprops={"color": "#808080"},
        )
        axes.set_yticklabels([f"{r['backend']} {r['precision']} ×{r['batch']}" for r in rows])
        axes.invert_yaxis()
        axes.set_xlabel("milliseconds per call (box: quartiles, line: median, whiskers: p1 and p99)")
        axes.set_xlim(left=0)
        axes.grid(axis="x", color="#808080", alpha=0.25)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_facecolor("none")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        pyplot.close(figure)
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :].replace("#000000", "currentColor").replace("fill: #000000", "fill: currentColor")
