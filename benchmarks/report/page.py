"""The HTML pages: `report.html` of one results file, and the page of a comparison. Each is one file that works offline."""

from __future__ import annotations

import base64
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stylert.benchmarks.report import tables
from stylert.benchmarks.report.comparison import Comparison
from stylert.benchmarks.report.plots import as_svg, comparison_plot, height, plots, write_png
from stylert.benchmarks.report.significance import NEGLIGIBLE
from stylert.core.errors import InputError, missing_extra
from stylert.core.files.atomic import atomic_file
from stylert.core.files.inputs import read_file
from stylert.core.files.outputs import document_text

#: The first bytes of a PNG file. Other files are not embedded, also where a link in the folder leads to one.
PNG = b"\x89PNG\r\n\x1a\n"
#: Bytes of a sample image, at most.
MAX_BYTES = 64 * 2**20


def write_report(document: dict[str, Any], path: str | Path, pictures: Path | None = None) -> None:
    """Write the report of a results file atomically.

    Args:
        document: Contents of the results file.
        path: The page.
        pictures: Folder of the sample images, by default the folder of the page. Missing files are left out.
    """
    folder = Path(path).parent if pictures is None else pictures
    accuracy = document.get("accuracy", [])
    sections = [
        (tables.TITLES[scenario], tables.columns(scenario), [(row, tables.cells(row, accuracy)) for row in rows])
        for scenario, rows in tables.by_scenario(document["rows"]).items()
    ]
    weak = [row for row in document["rows"] if row["remarks"]]
    render_page(
        "report.html",
        path,
        document=document,
        sections=sections,
        weak=weak,
        remark_kinds=_remark_kinds(weak),
        plots={name: as_svg(draw, height(name, document)) for name, draw in plots(document).items()},
        pictures=_embedded_pictures(document, folder),
        tables=tables,
    )


def write_plots(document: dict[str, Any], folder: Path) -> list[Path]:
    """Write every plot of the report as `<name>.png`, and return the files."""
    files = []
    for name, draw in plots(document).items():
        files.append(folder / f"{name}.png")
        write_png(draw, height(name, document), files[-1])
    return files


def write_comparison(
    comparisons: Sequence[Comparison], documents: Sequence[tuple[str, dict[str, Any]]], path: str | Path
) -> None:
    """Write the page of a comparison atomically.

    Args:
        comparisons: The first document compared with each of the others.
        documents: File name and contents of each results file, the first one first.
        path: The page.
    """
    draw, inches = comparison_plot(comparisons)
    has_intervals = any(row.difference for comparison in comparisons for row in comparison.rows)
    render_page(
        "comparison.html",
        path,
        comparisons=comparisons,
        documents=documents,
        plot=as_svg(draw, inches) if has_intervals else "",
        tables=tables,
        negligible=NEGLIGIBLE,
    )


def _remark_kinds(weak: Sequence[dict[str, Any]]) -> list[str]:
    """Each kind of remark with its number of rows, the most frequent one first."""
    kinds = Counter(kind for row in weak for kind in {remark.partition(":")[0] for remark in row["remarks"]})
    return [f"{kind} ({count})" for kind, count in kinds.most_common()]


def _embedded_pictures(document: dict[str, Any], folder: Path) -> dict[str, str]:
    """Caption to the PNG file in base64."""
    embedded = {}
    for picture in document.get("pictures", []):
        file = folder / picture["file"]
        if os.path.isfile(file) and (content := read_file(file, InputError, MAX_BYTES, "picture")).startswith(PNG):
            embedded[picture["caption"]] = base64.b64encode(content).decode()
    return embedded


def render_page(template: str, path: str | Path, **values: Any) -> None:
    """Write a page from a template of this folder, whole or not at all.

    Raises:
        BackendError: Jinja2 is not installed.
        OutputError: The page cannot be written.
    """
    text = page_template(template).render(**values)
    with atomic_file(path) as temporary:
        temporary.write_text(document_text(text), encoding="utf-8")  # also with names of files that are not UTF-8


def page_template(template: str) -> Any:
    """A template of this folder. Raises BackendError if Jinja2 is not installed."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError:
        raise missing_extra("Jinja2", "bench") from None
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    return environment.get_template(template)
