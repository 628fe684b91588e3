"""Tables that `stylert bench` prints."""

from __future__ import annotations

from typing import Any

from stylert.benchmarks.report import tables
from stylert.benchmarks.report.comparison import Comparison
from stylert.cli.console import print_line, print_table


def show_results(document: dict[str, Any]) -> None:
    """Print the tables of a benchmark, and every remark in full."""
    for scenario, rows in tables.by_scenario(document["rows"]).items():
        print_table(tables.TITLES[scenario], tables.columns(scenario), [tables.cells(r, document["accuracy"]) for r in rows])
        print_line("")
    if phases := tables.phase_cells(document["rows"]):
        print_table(tables.PHASES_TITLE, ["<row", *tables.PHASES.values()], phases)
    for line in tables.speedup_lines(document):
        print_line(line)
    peak_rates = document["ceiling"]
    if peak_rates is not None:
        print_line(f"peak rates: {tables.rate_list(peak_rates)} ({peak_rates['source']})")
    weak_rows = tables.weak_rows(document["rows"])
    for line in weak_rows:
        print_line(f"weak: {line}", style="yellow")
    if not weak_rows:
        print_line("no row has a remark: latencies were steady and nothing else used the machine")


def show_comparison(found: Comparison) -> None:
    """Print a comparison. Ratios are the second value over the first."""
    print_table(
        f"{found.second} against {found.first}",
        ["<scenario", "<row", "<unit", "first", "second", "ratio", "95 %", "p", "<outcome", "<"],
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
    for line in found.weak_rows:
        print_line(f"weak: {line}", style="yellow")
    for line in found.unmatched:
        print_line(f"only in {line}")
