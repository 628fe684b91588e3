"""One run of `stylert bench`, from models to results: scenarios, peak rates, lower bounds, layers, accuracy and samples."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stylert.benchmarks.layer_times import PROFILERS, profile_layers
from stylert.benchmarks.machine.lower_bounds import network_lower_bound
from stylert.benchmarks.machine.peak_rates import highest_rates, measure_peak_rates
from stylert.benchmarks.models import Model, bundle_config, model_facts, model_work
from stylert.benchmarks.scenarios.measure import PSI, Configuration
from stylert.benchmarks.scenarios.runner import Effort, check_scenarios, in_new_process, run_scenarios
from stylert.benchmarks.schema import Profile, Results, Row, row_name
from stylert.core.errors import InputError
from stylert.core.progress import Progress
from stylert.core.roofline import PeakRates
from stylert.runtime.backends import available_backends, backend
from stylert.runtime.build_options import check_threads
from stylert.runtime.engines import check_network_kind
from stylert.runtime.network_kinds import STYLEGAN2

FORMS = ("stylert", "portable")


@dataclass(frozen=True)
class Matrix:
    """Everything to measure of each model.

    Attributes:
        backends: Names of backends, or None for all that run here.
        precisions: Names of precisions, or None for all in the bundle.
        batches: Batch sizes.
        forms: `stylert`, the form that each backend runs best, or `portable`, the bundle's canonical file.
        threads: Threads of each backend, or None for its default.
        scenarios: Some of `scenarios.runner.SCENARIOS`.
        ceilings: Whether to measure the machine's peak rates.
        layers: Whether to measure the time of each layer, of StyleGAN2 alone.
        seeds: Number of images for the accuracy; 0 skips it.
    """

    backends: Sequence[str] | None = None
    precisions: Sequence[str] | None = None
    batches: Sequence[int] = (1, 4)
    forms: Sequence[str] = ("stylert",)
    threads: int | None = None
    scenarios: Sequence[str] = ("single-stream", "offline", "cold-start")
    ceilings: bool = True
    layers: bool = True
    seeds: int = 8


def run_suite(
    models: Sequence[Model],
    matrix: Matrix,
    effort: Effort,
    folder: Path | None = None,
    progress: Progress = lambda *_: None,
    save: Callable[[Results], None] = lambda _: None,
) -> Results:
    """Measure models in every combination of the matrix.

    Args:
        models: The bundles to measure.
        matrix: What to measure.
        effort: How long to measure.
        folder: Folder for sample images, or None for no samples.
        progress: Called as the stages advance.
        save: Called with the results so far after every round.

    Raises:
        InputError: The matrix has a mistake. It is found before the first measurement.
        BackendError: A backend failed.
    """
    chosen = configurations(models, matrix)
    models_by_name = {m.name: m for m in models}
    works = {m.name: model_work(m.name, m.bundle) for m in models}
    rates_by_round: list[PeakRates] = []

    def measure_rates() -> None:
        """Measured before the first round and after each one, because the speed of a shared host changes by the minute."""
        if matrix.ceilings:
            progress("peak rates", 0, 1)
            rates_by_round.append(in_new_process(measure_peak_rates, matrix.threads))
            progress("peak rates", 1, 1)

    measure_rates()
    results = Results(
        title=", ".join(f"{m.name}, {m.bundle.resolution} px" for m in models),
        rows=[],
        models={m.name: model_facts(m.bundle) for m in models},
        conditions={"effort": asdict(effort), "matrix": asdict(matrix), "psi": PSI},
        command=["stylert", *sys.argv[1:]],
        provenance={m.name: _provenance(m) for m in models},
    )
    newest_rows: dict[str, Row] = {}
    for row in run_scenarios(chosen, works, matrix.scenarios, effort, progress, measure_rates):
        newest_rows[f"{row.scenario} {row_name(row)}"] = row
        rates = highest_rates(rates_by_round)
        rows = [with_lower_bound(r, models_by_name[r.work["model"]], rates) for r in newest_rows.values()]
        results = replace(results, rows=rows, ceiling=None if rates is None else asdict(rates))
        save(results)
    single = list(dict.fromkeys(replace(c, batch=1) for c in chosen if c.form == "stylert"))
    rates = highest_rates(rates_by_round)
    with_layers = [c for c in single if models_by_name[c.model].bundle.kind is STYLEGAN2]
    layers = _profile_layers(with_layers, works, rates, progress) if matrix.layers else []
    accuracy = [row for m in models for row in _accuracy(m, matrix, single, progress)] if matrix.seeds else []
    pictures = [picture for m in models for picture in _write_samples(m, single, folder)] if folder is not None else []
    results = replace(results, layers=layers, accuracy=accuracy, pictures=pictures)
    save(results)
    return results


def configurations(models: Sequence[Model], matrix: Matrix) -> list[Configuration]:
    """Every combination of the matrix that can run here.

    Raises:
        InputError: A name is unknown, a batch size is wrong, or no combination can run.
    """
    _check(models, matrix)
    chosen = []
    for model in models:
        for name in matrix.backends or available_backends():
            for precision in matrix.precisions or model.bundle.precisions:
                if not backend(name).facts.runs(model.bundle.kind, precision):
                    continue
                for form in matrix.forms:
                    if form == "portable" and not model.bundle.precision(precision).plans.get(name):
                        continue  # without a plan of its own, this backend runs the portable file anyway
                    chosen += [
                        Configuration(model.name, model.bundle.path.absolute(), name, precision, batch, matrix.threads, form)
                        for batch in dict.fromkeys(matrix.batches)
                    ]
    if not chosen:
        raise InputError("none of these backends runs any of these precisions")
    return chosen


def with_lower_bound(row: Row, model: Model, rates: PeakRates | None) -> Row:
    """The row with its `floor`: the least latency in ms, or the highest rate in images/s, that the peak rates allow."""
    if rates is None or row.scenario not in ("single-stream", "offline", "server"):
        return row
    config, batch = bundle_config(model.bundle), row.work["batch"]
    bound_ms = network_lower_bound(config, row.work["precision"], batch, rates)
    if bound_ms is None:
        return row
    return dataclasses.replace(row, floor=bound_ms if row.unit == "ms" else 1000 * batch / bound_ms)


def _check(models: Sequence[Model], matrix: Matrix) -> None:
    if not matrix.batches or any(b < 1 for b in matrix.batches):
        raise InputError("a batch size is at least 1")
    check_threads(matrix.threads)
    check_scenarios(matrix.scenarios)
    for form in matrix.forms:
        if form not in FORMS:
            raise InputError(f"unknown form {form!r}: choose from {', '.join(FORMS)}")
    for model in models:
        for name in matrix.backends or ():
            check_network_kind(backend(name), model.bundle)
        for precision in matrix.precisions or ():
            model.bundle.precision(precision)


def _profile_layers(
    chosen: Sequence[Configuration], works: dict[str, dict[str, Any]], rates: PeakRates | None, progress: Progress
) -> list[Profile]:
    with_profiler = [c for c in chosen if c.backend in PROFILERS]
    profiles = []
    for i, c in enumerate(with_profiler):
        progress("layers", i, len(with_profiler))
        work = works[c.model] | {"precision": c.precision, "batch": 1}
        profiles.append(in_new_process(profile_layers, c, work, rates))
        progress("layers", i + 1, len(with_profiler))
    return profiles


def _accuracy(model: Model, matrix: Matrix, chosen: Sequence[Configuration], progress: Progress) -> list[dict[str, Any]]:
    """Accuracy against PyTorch, or else against the bundle's float32 network. It is empty if neither is available."""
    from stylert.export.verify import verify

    checkpoint = model.checkpoint if importlib.util.find_spec("torch") is not None else None
    if checkpoint is None and "fp32" not in model.bundle.precisions:
        return []
    of_model = [c for c in chosen if c.model == model.name]
    backends = list(dict.fromkeys(c.backend for c in of_model))
    precisions = list(dict.fromkeys(c.precision for c in of_model))
    rows = verify(model.bundle, checkpoint, backends, precisions, matrix.seeds, progress=progress)
    return [{"model": model.name, **asdict(r), "passed": r.passed} for r in rows]


#: The comment by which stylert knows its own pictures, and others what made them.
SAMPLE_COMMENT = '{"AI-generated": true, "command": "bench"}'


def _write_samples(model: Model, chosen: Sequence[Configuration], folder: Path) -> list[dict[str, str]]:
    """Write a PNG file with four samples of each precision, from the first backend that runs it. Return files and captions."""
    from stylert.core.images.grids import as_uint8, make_grid
    from stylert.runtime.media.pictures import check_own_picture, save_image

    if model.bundle.noise_inputs or model.bundle.model["c_dim"]:
        return []
    first_of_precision: dict[str, Configuration] = {}
    for c in chosen:
        if c.model == model.name:
            first_of_precision.setdefault(c.precision, c)
    pictures = []
    for c in first_of_precision.values():
        with c.load() as generator:
            images = as_uint8(generator([0, 1, 2, 3], PSI))
        file = f"{model.name}-{c.precision}.png"
        check_own_picture(folder / file)
        save_image(make_grid(images), folder / file, SAMPLE_COMMENT)
        pictures.append({"file": file, "caption": f"{model.name}, seeds 0 to 3, psi {PSI}, {c.precision} on {c.backend}"})
    return pictures


def _provenance(model: Model) -> dict[str, Any]:
    facts = model.bundle.provenance
    return {key: facts[key] for key in ("checkpoint", "checkpoint_sha256", "info") if key in facts}
