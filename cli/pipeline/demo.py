"""Runs `stylert demo`: exports, builds, verifies and measures a checkpoint, and writes a report."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from stylert.benchmarks.models import Model
from stylert.benchmarks.report.page import write_report
from stylert.benchmarks.scenarios.runner import Effort
from stylert.benchmarks.schema import write_results
from stylert.benchmarks.suite import Matrix, run_suite
from stylert.cli import tables
from stylert.cli.bench.tables import show_results
from stylert.cli.console import print_line, progress
from stylert.cli.picture_options import PictureOptions
from stylert.cli.pipeline.build import build_all, show_engines
from stylert.cli.pipeline.generate import generate_images
from stylert.core.errors import BackendError, missing_extra
from stylert.core.files.atomic import atomic_file
from stylert.core.files.outputs import check_output
from stylert.core.files.temporary import temporary_folder
from stylert.export.networks.exporters import exporter_of
from stylert.export.pipeline import export_bundle
from stylert.export.verify import verify
from stylert.models.importers.import_checkpoint import read_any_generator
from stylert.runtime.media.pictures import check_own_picture

SAMPLES = list(range(32))
PSI = 0.7


def run_demo(checkpoint: Path, out: Path) -> bool:
    """Write `bundle/`, a grid for each precision such as `grid.png`, `results.json` and `report.html` into `out`.

    Returns:
        Whether every precision kept the PSNR that the bundle promises.

    Raises:
        CheckpointError: The checkpoint is damaged or not supported.
        BackendError: A package of the extra `demo` is missing, or an engine could not be built.
    """
    if find_spec("psutil") is None:
        raise missing_extra("psutil", "demo")
    check_output(out / "results.json", "JSON")
    check_output(out / "report.html", "HTML")
    for precision in exporter_of(read_any_generator(checkpoint).config).default_precisions:
        check_own_picture(out / _grid_name(precision))
    with progress() as report:
        bundle = export_bundle(checkpoint, out / "bundle", progress=report)
    engines, refused = build_all(bundle, None, None)
    if refused:
        raise BackendError(refused[0])
    with progress() as report:
        accuracy = verify(bundle, against=checkpoint, progress=report)
    pictures = []
    with progress() as report:
        for precision in bundle.precisions:
            options = PictureOptions(precision=precision)
            name = _grid_name(precision)
            with temporary_folder("demo") as folder:
                (grid,) = generate_images(out / "bundle", SAMPLES, folder, PSI, True, options, report)
                with atomic_file(out / name) as temporary:
                    temporary.write_bytes(grid.read_bytes())
            pictures.append({"file": name, "caption": f"Seeds 0 to {SAMPLES[-1]}, psi {PSI}, {precision} on ONNX Runtime"})
        matrix = Matrix(batches=(1, 4), scenarios=("single-stream", "offline"), seeds=0)
        measured = run_suite([Model(checkpoint.stem, bundle)], matrix, Effort(rounds=3), None, report)
    rows = [{"model": checkpoint.stem, **a} for a in tables.accuracy_json(accuracy)]
    results = replace(measured, engines=engines, accuracy=rows, pictures=pictures)
    document = write_results(results, out / "results.json")
    write_report(document, out / "report.html")
    show_engines(engines)
    tables.show_accuracy(accuracy)
    show_results(document)
    names = [picture["file"] for picture in pictures]
    print_line(f"wrote {out}/bundle, {', '.join(names)}, report.html, results.json")
    return all(row.passed for row in accuracy)


def _grid_name(precision: str) -> str:
    return "grid.png" if precision == "fp32" else f"grid-{precision}.png"
