"""`stylert demo`: checkpoint to engines, verified and measured, with a report."""

from __future__ import annotations

import datetime
import math
from pathlib import Path

from stylert.benchmarks.latency import as_json, bench
from stylert.benchmarks.machine import machine_facts
from stylert.benchmarks.report import write_report
from stylert.cli import report
from stylert.cli.build import build_all, show_engines
from stylert.cli.console import console, progress
from stylert.cli.generate import Drawing, generate_images
from stylert.export.pipeline import export_bundle
from stylert.export.verify import verify
from stylert.runtime.bundle import Bundle
from stylert.train.checkpoint import generator_shapes
from stylert.train.config import GeneratorConfig

SAMPLES = list(range(32))
PSI = 0.7


def run_demo(checkpoint: Path, out: Path) -> bool:
    """Write `bundle/`, `grid.png`, `grid-int8.png`, `results.json` and `report.html` into `out`; True when all passed."""
    with progress() as bar:
        bundle = export_bundle(checkpoint, out / "bundle", progress=bar)
    engines = build_all(bundle, None, None)
    with progress() as bar:
        accuracy = verify(bundle, against=checkpoint, progress=bar)
    pictures = {}
    with progress() as bar:
        for precision in bundle.precisions:
            drawing = Drawing(precision=precision)
            (grid,) = generate_images(out / "bundle", SAMPLES, out / precision, PSI, True, drawing, bar)
            name = "grid.png" if precision == "fp32" else f"grid-{precision}.png"
            grid.replace(out / name)
            grid.parent.rmdir()
            pictures[f"Seeds 0 to {SAMPLES[-1]}, psi {PSI}, {precision} on ONNX Runtime"] = out / name
        latency = bench(bundle, batches=(1, 4), progress=bar)
    results = {
        "schema": 1,
        "title": f"{checkpoint.stem}, {bundle.resolution} px",
        "date": datetime.date.today().isoformat(),
        "model": _model_facts(bundle),
        "machine": machine_facts(),
        "engines": engines,
        "accuracy": report.accuracy_json(accuracy),
        "latency": as_json(latency),
        "provenance": {k: bundle.provenance[k] for k in ("checkpoint", "checkpoint_sha256")} | bundle.provenance["info"],
    }
    report.write_json(out / "results.json", results)
    write_report(results, pictures, out / "report.html")
    show_engines(engines)
    report.accuracy(accuracy)
    report.latency(latency)
    console.print(f"wrote {out}/bundle, grid.png, report.html, results.json", highlight=False, soft_wrap=True)
    return all(row.passed for row in accuracy)


def _model_facts(bundle: Bundle) -> dict[str, int]:
    cfg = GeneratorConfig.from_dict(bundle.model)
    buffers = ("noise_const", "resample_filter", "w_avg")
    parameters = sum(math.prod(shape) for name, shape in generator_shapes(cfg).items() if not name.endswith(buffers))
    return {"resolution": cfg.resolution, "parameters": parameters, "macs": cfg.macs()}
