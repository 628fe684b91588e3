"""`stylert demo`: checkpoint to engines, verified and measured, with a report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from stylert.benchmarks.models import Model
from stylert.benchmarks.report.page import write_report
from stylert.benchmarks.scenarios.runner import Effort
from stylert.benchmarks.schema import write_results
from stylert.benchmarks.suite import Matrix, run_suite
from stylert.cli import tables as report
from stylert.cli.bench.tables import show_results
from stylert.cli.console import console, progress
from stylert.cli.pipeline.build import build_all, show_engines
from stylert.cli.pipeline.generate import Drawing, generate_images
from stylert.core.errors import BackendError
from stylert.export.pipeline import export_bundle
from stylert.export.verify import verify

SAMPLES = list(range(32))
PSI = 0.7


def run_demo(checkpoint: Path, out: Path) -> bool:
    """Write `bundle/`, `grid.png`, `grid-int8.png`, `results.json` and `report.html` into `out`; True when all passed."""
    with progress() as bar:
        bundle = export_bundle(checkpoint, out / "bundle", progress=bar)
    engines, refused = build_all(bundle, None, None)
    if refused:
        raise BackendError(refused[0])
    with progress() as bar:
        accuracy = verify(bundle, against=checkpoint, progress=bar)
    pictures = []
    with progress() as bar:
        for precision in bundle.precisions:
            drawing = Drawing(precision=precision)
            (grid,) = generate_images(out / "bundle", SAMPLES, out / precision, PSI, True, drawing, bar)
            name = "grid.png" if precision == "fp32" else f"grid-{precision}.png"
            grid.replace(out / name)
            grid.parent.rmdir()
            pictures.append({"file": name, "caption": f"Seeds 0 to {SAMPLES[-1]}, psi {PSI}, {precision} on ONNX Runtime"})
        matrix = Matrix(batches=(1, 4), scenarios=("single-stream", "offline"), seeds=0)
        measured = run_suite([Model(checkpoint.stem, bundle)], matrix, Effort(rounds=3), None, bar)
    found = [{"model": checkpoint.stem, **a} for a in report.accuracy_json(accuracy)]
    results = replace(measured, engines=engines, accuracy=found, pictures=pictures)
    document = write_results(results, out / "results.json")
    write_report(document, out / "report.html")
    show_engines(engines)
    report.accuracy(accuracy)
    show_results(document)
    console.print(f"wrote {out}/bundle, grid.png, report.html, results.json", highlight=False, soft_wrap=True)
    return all(row.passed for row in accuracy)
