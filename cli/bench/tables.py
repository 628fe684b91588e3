"""Tables that `stylert bench` prints."""

from __future__ import annotations

from typing import Any

from stylert.benchmarks.report import tables
from stylert.benchmarks.report.compare import Comparison
from stylert.cli.console import console, print_line, print_table


def show_results(document: dict[str, Any]) -> None:
    """Print the tables of a benchmark, and every remark in full."""
    for scenario, rows in tables.by_scenario(document["rows"]).items():
        print_table(tables.TITLES[scenario], tables.columns(scenario), [tables.cells(r, document["accuracy"]) for r in rows])
        console.print()
    if apart := tables.parts(document["rows"]):
        print_table(tables.PARTS_TITLE, ["<", *tables.PARTS.values()], apart)
    for line in tables.speedup_lines(document):
        print_line(line)
    ceiling = document["ceiling"]
    if ceiling is not None:
        rates = ", ".join(f"{name} {tables.number(1000 * v)} GFLOP/s" for name, v in ceiling["tflops"].items())
        line = f"ceilings: {rates}, copy {tables.number(ceiling['bandwidth'])} GB/s ({ceiling['source']})"
        print_line(line)
    weak_rows = tables.weak_rows(document["rows"])
    for doubt in weak_rows:
        print_line(f"weak: {doubt}", style="yellow")
    if not weak_rows:
        print_line("no row is marked: latencies were steady and nothing else used the machine")


def show_comparison(found: Comparison) -> None:
    """Print a comparison. Ratios are the second value over the first."""
    print_table(
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
                line.outcome,
                "weak" if line.weak else "",
            )
            for line in found.rows
        ],
    )
    for doubt in found.weak_rows:
        print_line(f"weak: {doubt}", style="yellow")
    for name in found.unmatched:
        print_line(f"only in {name}")
