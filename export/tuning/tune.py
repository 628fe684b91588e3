"""`stylert tune`: the forms that are fastest on this machine, measured, written into the bundle where they beat the default."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stylert.core.atomic import atomic_file
from stylert.core.cache import cache_folder
from stylert.core.errors import BackendError, InputError
from stylert.core.host import cpu_identity
from stylert.export.defaults import backend_plan, canonical_plan
from stylert.export.pipeline import EIGHT_BIT
from stylert.export.plan import NetworkPlan, without
from stylert.export.quantization.calibration import calibrate
from stylert.export.quantization.latents import calibration_latents, search_latents
from stylert.export.quantization.sensitivity import keeps
from stylert.export.synthesis import NoiseInput, OutputType, synthesis_model
from stylert.export.tuning.search import Search, describe, search_forms
from stylert.export.verify import check_same_checkpoint
from stylert.models.checkpoint import GeneratorWeights
from stylert.models.importers.imported import read_any_generator
from stylert.runtime.backends import backend
from stylert.runtime.bundle import MAPPING_FILE, Bundle, file_entries
from stylert.runtime.session import Session

#: Backends that take the graph as it is given; the others choose among forms of their own when they build.
TUNABLE = ("onnxruntime", "onnxruntime-cuda", "openvino")

#: `(stage, done, total)`
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Tuning:
    """What tuning a bundle came to. `psnr_db` is the least that any of the compared images has in 8 bits, where it is int8."""

    search: Search
    psnr_kept: bool
    file: str | None  # the network written, or None where the default stays

    @property
    def verdict(self) -> str:
        """In a line."""
        found = self.search
        tried = "" if found.complete else "; the time was over before everything was tried"
        if found.against_default is None:
            return f"the default stays: no change made it faster{tried}"
        figures = f"{found.against_default.inverse} times as fast as the default"
        if self.file is not None:
            return f"{figures}: wrote {self.file}{tried}"
        return f"the default stays: the tuned network is {figures}{'' if self.psnr_kept else ', but misses the promised PSNR'}{tried}"


def tune_bundle(
    path: str | Path,
    checkpoint: str | Path,
    backend_name: str,
    precision: str,
    threads: int | None = None,
    batch: int = 1,
    minutes: float = 10.0,
    forget: bool = False,
    progress: Progress = lambda *_: None,
) -> Tuning:
    """Search the forms of one precision on one backend, and write the network into the bundle where it is faster than the default.

    What was measured of a layer's shape on this machine is remembered in the user's cache, unless `forget`. The bundle changes only at
    the end, all at once; engines of the former network are not used any more.

    Raises InputError for a backend that chooses its own forms, a checkpoint that the bundle is not of, or numbers out of range,
    BackendError for a backend that does not run here, and as `Generator.load`.
    """
    bundle, path = Bundle.load(path), Path(path)
    entry = bundle.precision(precision)
    _check(backend_name, precision, batch, minutes)
    check_same_checkpoint(bundle, Path(checkpoint))
    weights = read_any_generator(checkpoint)
    default = _default_plan(bundle, weights, backend_name, precision, lambda done, total: progress("calibrate", done, total))
    ws = search_latents(weights.config, bundle.checked_file(MAPPING_FILE))
    inputs = {"ws": np.concatenate([ws[i % len(ws)] for i in range(batch)])}
    rng = np.random.default_rng(0)
    inputs |= {n: rng.standard_normal((batch, 1, r, r), np.float32) for n, r in bundle.noise_inputs.items()}
    memory = _Memory(cache_folder() / "forms.json", backend_name, precision, threads, batch, forget)
    with tempfile.TemporaryDirectory(prefix="stylert-tune-") as folder:

        def open_plan(plan: NetworkPlan) -> _Opened:
            file = Path(folder) / "candidate.onnx"
            file.write_bytes(_network(bundle, weights, plan))
            return _Opened(backend(backend_name).load(file, precision, threads), inputs)

        found = search_forms(
            weights.config,
            default,
            open_plan,
            60 * minutes,
            remembered=memory.known,
            scalable=backend_name == "onnxruntime",
            progress=lambda done, total: progress(f"tune {backend_name} {precision}", done, total),
        )
    memory.save()
    kept = not found.better or precision not in EIGHT_BIT or keeps(weights, found.plan, ws, entry.min_psnr_db)
    if not found.better or not kept:
        return Tuning(found, kept, None)
    data = _network(bundle, weights, found.plan)
    file = f"synthesis.{precision}.{backend_name}.tuned-{hashlib.sha256(data).hexdigest()[:8]}.onnx"
    with atomic_file(path / file) as temporary:
        temporary.write_bytes(data)
    facts = {
        "layers": {s.name: describe(found.plan.layer(s)) for s in weights.config.layers()},
        "cpu": cpu_identity(),
        "version": backend(backend_name).version(),
        "threads": threads,
        "batch": batch,
        "time over the default's": asdict(found.against_default) if found.against_default else {},
    }
    former = entry.plans.get(backend_name)
    recipe = entry.recipe | {"tuned": entry.recipe.get("tuned", {}) | {backend_name: facts}}
    accuracy = {b: a for b, a in entry.accuracy.items() if b != backend_name}  # it was that of the other network
    changed = replace(entry, plans=entry.plans | {backend_name: file}, recipe=recipe, accuracy=accuracy)
    precisions = bundle.precisions | {precision: changed}
    used = {f for e in precisions.values() for f in e.files}
    files = {n: f for n, f in bundle.files.items() if n in used | {MAPPING_FILE}} | file_entries(path, [file])
    replace(bundle, precisions=precisions, files=files).save()
    if former is not None and former not in used:
        (path / former).unlink(missing_ok=True)
    return Tuning(found, True, file)


class _Opened:
    """A session with the inputs of one call."""

    def __init__(self, session: Session, inputs: dict[str, Any]) -> None:
        self._session, self._inputs = session, inputs

    def __call__(self) -> object:
        return self._session.run(self._inputs)

    def close(self) -> None:
        self._session.close()


class _Memory:
    """What searches on this machine found, in a JSON file of the user's cache: shape and change to `Trial.speed`."""

    def __init__(self, file: Path, backend_name: str, precision: str, threads: int | None, batch: int, forget: bool) -> None:
        self._file = file
        self._place = (
            f"{cpu_identity()}, {backend_name} {backend(backend_name).version()}, {precision}, threads {threads}, batch {batch}"
        )
        try:
            found = json.loads(file.read_text())
        except (OSError, ValueError):
            found = None
        self._all = {k: v for k, v in found.items() if isinstance(v, dict)} if isinstance(found, dict) else {}
        known = self._all.get(self._place, {})
        self.known = {} if forget else {str(k): float(v) for k, v in known.items() if isinstance(v, int | float) and 0 < v <= 1}

    def save(self) -> None:
        with atomic_file(self._file) as temporary:
            temporary.write_text(json.dumps(self._all | {self._place: self.known}, indent=1, sort_keys=True) + "\n")


def _check(backend_name: str, precision: str, batch: int, minutes: float) -> None:
    if backend_name not in TUNABLE:
        raise InputError(f"{backend_name!r} takes no forms from outside: choose from {', '.join(TUNABLE)}")
    module = backend(backend_name)
    if precision not in module.PRECISIONS:
        raise InputError(f"{backend_name} does not run {precision}, only: {', '.join(module.PRECISIONS)}")
    if not 0 < minutes < float("inf") or batch < 1:
        raise InputError("minutes are above 0, and a batch is at least 1")
    if (why := module.unavailable_reason()) is not None:
        raise BackendError(why)


def _default_plan(
    bundle: Bundle, weights: GeneratorWeights, backend_name: str, precision: str, progress: Callable[[int, int], None]
) -> NetworkPlan:
    """What export chose: for int8 with the same calibration, made again, and the same layers left out."""
    calibration = None
    if precision in EIGHT_BIT:
        calibration = calibrate(weights, calibration_latents(weights.config, bundle.path / MAPPING_FILE), progress)
    plan = backend_plan(weights, precision, backend_name, calibration) or canonical_plan(weights, precision, calibration)
    if calibration is None:
        return plan
    recipe = bundle.precision(precision).recipe
    in_8_bits = recipe.get("backends", {}).get(backend_name, recipe).get("layers", sorted(calibration))
    return without(plan, [name for name in calibration if name not in in_8_bits])


def _network(bundle: Bundle, weights: GeneratorWeights, plan: NetworkPlan) -> bytes:
    noise: NoiseInput = bundle.noise  # type: ignore[assignment]
    output: OutputType = bundle.output  # type: ignore[assignment]
    return synthesis_model(weights, noise, output, plan).SerializeToString(deterministic=True)
