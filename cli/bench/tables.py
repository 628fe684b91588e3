"""What `stylert bench` prints: a benchmark's tables, and a comparison's."""

from __future__ import annotations

from typing import Any

from stylert.benchmarks.report import tables
from stylert.benchmarks.report.compare import Comparison
from stylert.cli.console import console, table


def show_results(document: dict[str, Any]) -> None:
    """A benchmark's tables, and every remark in full."""
    for scenario, rows in tables.by_scenario(document["rows"]).items():
        table(tables.TITLES[scenario], tables.columns(scenario), [tables.cells(r, document["accuracy"]) for r in rows])
        console.print()
    if apart := tables.parts(document["rows"]):
        table(tables.PARTS_TITLE, ["<", *tables.PARTS.values()], apart)
    for line in tables.times_faster(document):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    ceiling = document["ceiling"]
    if ceiling is not None:
        rates = ", ".join(f"{name} {tables.number(1000 * v)} GFLOP/s" for name, v in ceiling["tflops"].items())
        line = f"ceilings: {rates}, copy {tables.number(ceiling['bandwidth'])} GB/s ({ceiling['source']})"
        console.print(line, highlight=False, soft_wrap=True)
    doubts = tables.doubts(document["rows"])
    for doubt in doubts:
        console.print(f"weak: {doubt}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    if not doubts:
        console.print("no row is marked: latencies were steady and nothing else used the machine", highlight=False)


def show_comparison(found: Comparison) -> None:
    """A comparison's table; ratios are of the second's value to the first's."""
    table(
        f"{found.second} against {found.first}",
        ["<scenario", "<row", "<unit", "first", "second", "ratio", "95 %", "p", "<verdict", "<"],
        [
            (
                line.scenario,
                line.name,
                line.unit,
                tables.number(line.first),
                tables.number(line.second),
                f"{line.difference.ratio:.3f}" if line.difference else f"{line.second / line.first:.3f}" if line.first else "–",
                f"{line.difference.low:.3f} to {line.difference.high:.3f}" if line.difference else "–",
                "–" if line.adjusted is None else f"{line.adjusted:.2g}",
                line.verdict,
                "weak" if line.weak else "",
            )
            for line in found.lines
        ],
    )
    for doubt in found.doubts:
        console.print(f"weak: {doubt}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    for name in found.only:
        console.print(f"only in {name}", highlight=False, markup=False, soft_wrap=True)
