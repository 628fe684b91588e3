"""One run of `stylert bench`, from models to results: scenarios, ceilings, floors, layers, accuracy and samples."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stylert.benchmarks.layer_times import PROFILERS, profile_layers
from stylert.benchmarks.machine.lower_bounds import network_floor
from stylert.benchmarks.machine.peak_rates import highest, measure_ceiling
from stylert.benchmarks.machine.roofline import Ceiling
from stylert.benchmarks.models import Model, model_facts, work_of
from stylert.benchmarks.scenarios.measure import PSI, Configuration
from stylert.benchmarks.scenarios.runner import Effort, alone, check_scenarios, run_scenarios
from stylert.benchmarks.schema import Profile, Results, Row, row_name
from stylert.core.errors import InputError
from stylert.models.stylegan2.config import GeneratorConfig
from stylert.runtime.backends import available_backends, backend

FORMS = ("stylert", "portable")

#: `(stage, done, total)`
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Matrix:
    """What to measure of each model; None is all that run here. `layers`, `ceilings` and `seeds` (0: none) say what else."""

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
    """Measure `models`; samples are written into `folder`, where there is one. `save` gets what is known after every round.

    Everything that can be wrong with the matrix is found before the first measurement. Raises InputError for it, and as
    `Generator.load`.
    """
    chosen = configurations(models, matrix)
    by_name = {m.name: m for m in models}
    works = {m.name: work_of(m.name, m.bundle) for m in models}
    moments: list[Ceiling] = []

    def measure_moment() -> None:
        """Between all rounds, since what a shared host can do changes by the minute."""
        if matrix.ceilings:
            progress("ceilings", 0, 1)
            moments.append(alone(measure_ceiling, matrix.threads))
            progress("ceilings", 1, 1)

    measure_moment()
    results = Results(
        title=", ".join(f"{m.name}, {m.bundle.resolution} px" for m in models),
        rows=[],
        models={m.name: model_facts(m.bundle) for m in models},
        conditions={"effort": asdict(effort), "matrix": asdict(matrix), "psi": PSI},
        command=["stylert", *sys.argv[1:]],
        provenance={m.name: _provenance(m) for m in models},
    )
    rows: dict[str, Row] = {}
    ceiling = highest(moments)
    for row in run_scenarios(chosen, works, matrix.scenarios, effort, progress, measure_moment):
        rows[f"{row.scenario} {row_name(row)}"] = row
        ceiling = highest(moments)
        measured = [with_floor(r, by_name[r.work["model"]], ceiling) for r in rows.values()]
        results = replace(results, rows=measured, ceiling=_facts(ceiling))
        save(results)
    single = list(dict.fromkeys(replace(c, batch=1) for c in chosen if c.form == "stylert"))
    layers = _layers(single, works, ceiling, progress) if matrix.layers else []
    accuracy = [found for m in models for found in _accuracy(m, matrix, single, progress)] if matrix.seeds else []
    pictures = [p for m in models for p in _pictures(m, single, folder)] if folder is not None else []
    results = replace(results, layers=layers, accuracy=accuracy, pictures=pictures)
    save(results)
    return results


def configurations(models: Sequence[Model], matrix: Matrix) -> list[Configuration]:
    """Every combination of the matrix that can run. Raises InputError for a name that is not there, or when none can run."""
    if not matrix.batches or any(b < 1 for b in matrix.batches):
        raise InputError("a batch size is at least 1")
    check_scenarios(matrix.scenarios)
    for form in matrix.forms:
        if form not in FORMS:
            raise InputError(f"unknown form {form!r}: choose from {', '.join(FORMS)}")
    found = []
    for model in models:
        for precision in matrix.precisions or ():
            model.bundle.precision(precision)
        for name in matrix.backends or available_backends():
            for precision in matrix.precisions or model.bundle.precisions:
                if precision not in backend(name).PRECISIONS:
                    continue
                for form in matrix.forms:
                    if form == "portable" and not model.bundle.precision(precision).plans.get(name):
                        continue  # the portable file is what this backend runs anyway
                    found += [
                        Configuration(model.name, model.bundle.path.absolute(), name, precision, b, matrix.threads, form)
                        for b in dict.fromkeys(matrix.batches)
                    ]
    if not found:
        raise InputError("none of these backends runs any of these precisions")
    return found


def with_floor(row: Row, model: Model, ceiling: Ceiling | None) -> Row:
    """The row with the least that its value could be: ms for a latency, images/s for a rate (then it is the most)."""
    if ceiling is None or row.scenario not in ("single-stream", "offline", "server"):
        return row
    config, batch = GeneratorConfig.from_dict(model.bundle.model), row.work["batch"]
    floor = network_floor(config, row.work["precision"], batch, ceiling)
    if floor is None:
        return row
    return dataclasses.replace(row, floor=floor if row.unit == "ms" else 1000 * batch / floor)


def _facts(ceiling: Ceiling | None) -> dict[str, Any] | None:
    return None if ceiling is None else asdict(ceiling)


def _layers(
    chosen: Sequence[Configuration], works: dict[str, dict[str, Any]], ceiling: Ceiling | None, progress: Progress
) -> list[Profile]:
    able = [c for c in chosen if c.backend in PROFILERS]
    found = []
    for i, c in enumerate(able):
        progress("layers", i, len(able))
        found.append(alone(profile_layers, c, works[c.model] | {"precision": c.precision, "batch": 1}, ceiling))
        progress("layers", i + 1, len(able))
    return found


def _accuracy(model: Model, matrix: Matrix, chosen: Sequence[Configuration], progress: Progress) -> list[dict[str, Any]]:
    """Against PyTorch where the checkpoint and torch are here, else against the bundle's own float32 network, else nothing."""
    import importlib.util

    from stylert.export.verify import verify

    against = model.checkpoint if importlib.util.find_spec("torch") is not None else None
    if against is None and "fp32" not in model.bundle.precisions:
        return []
    mine = [c for c in chosen if c.model == model.name]
    backends, precisions = (list(dict.fromkeys(getattr(c, name) for c in mine)) for name in ("backend", "precision"))
    rows = verify(model.bundle, against, backends, precisions, matrix.seeds, progress=progress)
    return [{"model": model.name, **asdict(r), "passed": r.passed} for r in rows]


def _pictures(model: Model, chosen: Sequence[Configuration], folder: Path) -> list[dict[str, str]]:
    """Four samples of each precision on the first backend that runs it, as PNG files."""
    from stylert.core.images import as_uint8, make_grid
    from stylert.runtime.media.pictures import save_image

    if model.bundle.noise_inputs or model.bundle.model["c_dim"]:
        return []
    found = []
    for c in {c.precision: c for c in reversed([c for c in chosen if c.model == model.name])}.values():
        with c.load() as generator:
            images = as_uint8(generator([0, 1, 2, 3], PSI))
        file = f"{model.name}-{c.precision}.png"
        save_image(make_grid(images), folder / file)
        found.append({"file": file, "caption": f"{model.name}, seeds 0 to 3, psi {PSI}, {c.precision} on {c.backend}"})
    return found


def _provenance(model: Model) -> dict[str, Any]:
    known = model.bundle.provenance
    return {k: known[k] for k in ("checkpoint", "checkpoint_sha256", "info") if k in known}
