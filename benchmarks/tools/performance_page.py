"""`docs/performance.md` from the results in `benchmarks/results/`: `python benchmarks/tools/performance_page.py`.

The page says nothing that is not in those files; a test holds the two together.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stylert.benchmarks.report import tables
from stylert.benchmarks.report.summary import summaries
from stylert.benchmarks.schema import read_results
from stylert.core.atomic import atomic_file
from stylert.core.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
INTRODUCTION = """\
# Performance

Every number here is from a file under [benchmarks/results](../benchmarks/results), one folder per device and date, and this page
is made from them by `python benchmarks/tools/performance_page.py`. `make bench` measures your machine in the same way, and

```console
stylert bench --model sg2-256 --out mine
stylert bench compare benchmarks/results/<device>-<date>/results.json mine/results.json
```

sets it beside one of these. The standard models are StyleGAN2's config F with seeded random weights, so any two machines do the
same work. Each row is from several processes that took turns; brackets are 95 % intervals from order statistics of as many runs
as are independent of each other, `?` where too few runs bound them. How many times as fast stylert is as the best peer was
measured apart, both loaded at once and in turns of half a second: it is the median over the cycles. *Of floor* is the time that
the arithmetic and the memory traffic alone would take at the rates that the machine reached in a matrix product and a copy, over
the time measured. A row that carries a remark is weak evidence. MiB is the peak of the process, PSNR that of the same images
against the reference.
"""

IN_SHORT = """\
One image from latents to host memory, batch 1, all cores. *Plain* is the network as it is usually written, of its two forms the faster
one. PSNR is that of the same images against stylert's float32 network on ONNX Runtime (100: itself). Times are of rounds that took turns
on a machine that may be shared; the ratios are measured apart, and hold whatever its mood.
"""


def page(documents: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """The page's Markdown from `(folder name, document)`, newest first."""
    parts = [INTRODUCTION]
    for machine, both in summaries([document for _, document in documents]).items():
        parts.append(f"## In short: {machine}\n\n{IN_SHORT}\n{both}")
    for name, document in sorted(documents, key=lambda d: d[1]["created"], reverse=True):
        parts.append(_section(name, document))
    return "\n".join(parts)


def read_all(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Every `<name>/results.json` of a folder. Raises InputError where there is none, or one is not valid."""
    files = sorted(folder.glob("*/results.json"))
    if not files:
        raise InputError(
            f"{folder} holds no results: make some with stylert bench --model sg2-256 --out {folder}/<device>-<date>"
        )
    return [(file.parent.name, read_results(file)) for file in files]


def _section(name: str, document: dict[str, Any]) -> str:
    machine = document["machine"]
    gpu = f", {machine['gpu']['name']}" if machine["gpu"] else ""
    versions = ", ".join(f"{p} {v}" for p, v in machine["packages"].items())
    lines = [
        f"## {name}",
        "",
        f"{document['title']}. {machine['cpu']}, {machine['cores']} cores ({', '.join(machine['isa']) or 'no vector extension'}){gpu}, "
        f"{machine['memory_gib']:g} GiB, {machine['system']}, Python {machine['python']}; {versions}.",
        "",
        f"`{' '.join(document['command'])}`, {document['created']}",
        "",
    ]
    for model, facts in document["models"].items():
        lines += [
            f"{model}: {facts['resolution']} px, {facts['parameters'] / 1e6:.1f} M parameters, {facts['macs'] / 1e9:.2f} GMAC per image.",
            "",
        ]
    for scenario, rows in tables.by_scenario(document["rows"]).items():
        cells = [tables.cells(row, document["accuracy"]) for row in rows]
        lines += [f"### {tables.TITLES[scenario]}", "", tables.markdown(tables.columns(scenario), cells)]
    if faster := tables.times_faster(document):
        lines += [*(f"- {line}" for line in faster), ""]
    if document["accuracy"]:
        first = document["accuracy"][0]
        lines += [f"PSNR is against {first['reference']}, mean over {first['seeds']} seeds.", ""]
    if document["ceiling"] is not None:
        rates = ", ".join(f"{d} {tables.number(1000 * v)} GFLOP/s" for d, v in document["ceiling"]["tflops"].items())
        lines += [f"Ceilings: {rates}, copy {tables.number(document['ceiling']['bandwidth'])} GB/s.", ""]
    doubts = tables.doubts(document["rows"])
    lines += [f"- {doubt}" for doubt in doubts]
    return "\n".join(lines) + ("\n" if doubts else "")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write docs/performance.md from benchmarks/results/.")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "performance.md")
    options = parser.parse_args(arguments)
    try:
        text = page(read_all(options.results))
    except InputError as error:
        parser.error(str(error))
    with atomic_file(options.out) as temporary:
        temporary.write_text(text)


if __name__ == "__main__":
    main()
