"""Writes `docs/performance.md` from the results files in `benchmarks/results/`.

    python benchmarks/tools/performance_page.py

Every figure of the page is in one of these files. A test fails if the page is not up to date.
"""

from __future__ import annotations

from stylert.core.programs.stop_signals import end_quietly

if __name__ == "__main__":
    end_quietly()  # until `run_program`: the imports below take their time

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stylert.benchmarks.report import tables
from stylert.benchmarks.report.summary import summaries
from stylert.benchmarks.schema import read_results
from stylert.core.errors import InputError, printable
from stylert.core.files.atomic import atomic_file
from stylert.core.programs.runner import run_program

ROOT = Path(__file__).resolve().parents[2]
INTRODUCTION = """\
# Performance

Every number here is from a file under [benchmarks/results](../benchmarks/results), one folder per device and date. The page is
written by `python benchmarks/tools/performance_page.py`. `make bench` measures your machine in the same way. To compare it with
one of these:

```console
stylert bench --model sg2-256 --out mine
stylert bench compare benchmarks/results/<device>-<date>/results.json mine/results.json
```

The standard models are StyleGAN2's config F with seeded random weights, so all machines do the same work.

- Each round of a row is a new process. In every round, all rows take turns.
- Brackets are 95 % intervals from order statistics; dependent runs count as fewer. `?` is a bound that too few runs cannot give.
- *Of roofline* is a lower bound of the time over the measured time. The lower bound is the time of the arithmetic and the memory
  traffic alone, at the peak rates that the machine reached in matrix products and copies.
- The ratio to the best peer is measured separately: both are loaded at the same time and take turns of half a second. It is the
  median over the cycles.
- MiB is the peak memory of the process. PSNR is measured on the same images against the reference.
- A row with a remark is weak evidence.
"""

SUMMARY_NOTE = """\
One image from latents to host memory, batch 1, all cores. *Textbook* is the network as it is usually written; of its two forms
the faster one is shown. PSNR is measured against stylert's float32 network on ONNX Runtime, which therefore has 100 dB. The
machines may be shared with others. The ratios are interleaved, so they do not change if the whole machine becomes slower.
"""


def page(documents: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """The page in Markdown, the newest results first.

    Args:
        documents: Folder name and contents of each results file.
    """
    parts = [INTRODUCTION]
    for machine, both_tables in summaries([document for _, document in documents]).items():
        parts.append(f"## In short: {machine}\n\n{SUMMARY_NOTE}\n{both_tables}")
    for name, document in sorted(documents, key=lambda d: d[1]["created"], reverse=True):
        parts.append(_section(name, document))
    return "\n".join(parts)


def read_all(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Name and contents of every `<name>/results.json` in a folder.

    Raises:
        InputError: There is no such file, or one does not follow the schema.
    """
    files = sorted(folder.glob("*/results.json"))
    if not files:
        raise InputError(
            f"{folder} holds no results: make some with stylert bench --model sg2-256 --out {folder}/<device>-<date>"
        )
    return [(file.parent.name, read_results(file)) for file in files]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of this tool."""
    parser = argparse.ArgumentParser(description="Write docs/performance.md from benchmarks/results/.")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the results")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "performance.md", help="the page")
    options = parser.parse_args(arguments)
    try:
        text = page(read_all(options.results))
    except InputError as error:
        parser.error(printable(str(error)))
    with atomic_file(options.out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _section(name: str, document: dict[str, Any]) -> str:
    lines = [f"## {name}", "", _machine(document), "", f"`{' '.join(document['command'])}`, {document['created']}", ""]
    for model, facts in document["models"].items():
        size = f"{facts['parameters'] / 1e6:.1f} M parameters, {facts['macs'] / 1e9:.2f} GMAC per image"
        lines += [f"{model}: {facts['resolution']} px, {size}.", ""]
    for scenario, rows in tables.by_scenario(document["rows"]).items():
        cells = [tables.cells(row, document["accuracy"]) for row in rows]
        lines += [f"### {tables.TITLES[scenario]}", "", tables.markdown(tables.columns(scenario), cells)]
    if speedups := tables.speedup_lines(document):
        lines += [*(f"- {line}" for line in speedups), ""]
    if document["accuracy"]:
        first = document["accuracy"][0]
        lines += [f"PSNR is against {first['reference']}, mean over {first['seeds']} seeds.", ""]
    if document["ceiling"] is not None:
        lines += [f"Peak rates: {tables.rate_list(document['ceiling'])}.", ""]
    weak_rows = tables.weak_rows(document["rows"])
    lines += [f"- {line}" for line in weak_rows]
    return "\n".join(lines) + ("\n" if weak_rows else "")


def _machine(document: dict[str, Any]) -> str:
    machine = document["machine"]
    gpu = f", {machine['gpu']['name']}" if machine["gpu"] else ""
    versions = ", ".join(f"{package} {version}" for package, version in machine["packages"].items())
    return (
        f"{document['title']}. {machine['cpu']}, {machine['cores']} cores "
        f"({', '.join(machine['isa']) or 'no vector extension'}){gpu}, "
        f"{machine['memory_gib']:g} GiB, {machine['system']}, Python {machine['python']}; {versions}."
    )


if __name__ == "__main__":
    run_program("performance_page", main)
