"""`report.html`: one self-contained page with accuracy beside speed, the distributions, samples and the machine."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stylert.benchmarks.report import tables
from stylert.benchmarks.report.compare import Comparison
from stylert.benchmarks.report.plots import as_svg, comparison_plot, height, plots, write_png
from stylert.benchmarks.report.significance import NEGLIGIBLE
from stylert.core.atomic import atomic_file
from stylert.core.errors import missing_extra


def write_report(document: dict[str, Any], path: str | Path, pictures: Path | None = None) -> None:
    """Render a document of `schema.py`; its pictures lie in `pictures`, beside the page by default. Opens offline. Atomic."""
    folder = Path(path).parent if pictures is None else pictures
    images = {}
    for picture in document.get("pictures", []):
        file = folder / picture["file"]
        if file.is_file():
            images[picture["caption"]] = base64.b64encode(file.read_bytes()).decode()
    drawn = {name: as_svg(draw, height(name, document)) for name, draw in plots(document).items()}
    sections = [
        (tables.TITLES[s], tables.columns(s), [(r, tables.cells(r, document.get("accuracy", []))) for r in rows])
        for s, rows in tables.by_scenario(document["rows"]).items()
    ]
    marked = [r for r in document["rows"] if r["remarks"]]
    kinds = Counter(kind for r in marked for kind in {remark.partition(":")[0] for remark in r["remarks"]})
    _render(
        "report.html",
        path,
        document=document,
        sections=sections,
        marked=marked,
        kinds=[f"{kind} ({count})" for kind, count in kinds.most_common()],
        plots=drawn,
        pictures=images,
        tables=tables,
    )


def write_plots(document: dict[str, Any], folder: Path) -> list[Path]:
    """Every plot of the report as `<name>.png` in `folder`."""
    files = []
    for name, draw in plots(document).items():
        files.append(folder / f"{name}.png")
        write_png(draw, height(name, document), files[-1])
    return files


def write_comparison(
    comparisons: Sequence[Comparison], documents: Sequence[tuple[str, dict[str, Any]]], path: str | Path
) -> None:
    """The comparison as a page: table, chart, and the machines. Atomic."""
    draw, inches = comparison_plot(comparisons)
    has_any = any(line.difference for c in comparisons for line in c.lines)
    plot = as_svg(draw, inches) if has_any else ""
    _render(
        "comparison.html", path, comparisons=comparisons, documents=documents, plot=plot, tables=tables, negligible=NEGLIGIBLE
    )


def _render(template: str, path: str | Path, **values: Any) -> None:
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError:
        raise missing_extra("Jinja2", "bench") from None
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template(template).render(**values)
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
