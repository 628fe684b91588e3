"""`stylert tune`: search the fastest plan on this machine, and write its network into the bundle."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stylert.core.errors import BackendError, BundleError, InputError, OutputError
from stylert.core.files.atomic import atomic_file, check_no_links, check_writable
from stylert.core.files.cache import cache_folder
from stylert.core.files.inputs import read_file
from stylert.core.files.json_documents import MAX_BYTES, read_document
from stylert.core.files.locks import changing_folder
from stylert.core.files.temporary import temporary_folder
from stylert.core.machine.devices import find_gpus
from stylert.core.machine.host import cpu_identity
from stylert.core.progress import Progress
from stylert.export.default_plans import EIGHT_BIT, backend_plan, canonical_plan, plan_without_vnni
from stylert.export.network_plan import NetworkPlan
from stylert.export.quantization.calibration import calibrate
from stylert.export.quantization.calibration_latents import calibration_latents, search_latents
from stylert.export.quantization.quantization_record import layers_in_8_bits
from stylert.export.quantization.sensitivity import plan_images_on, reaches_psnr
from stylert.export.synthesis import NoiseInput, OutputType, synthesis_model
from stylert.export.tuning.search import Search, describe, search_forms
from stylert.export.verify import check_same_checkpoint
from stylert.models.checkpoint import GeneratorWeights
from stylert.models.importers.import_checkpoint import read_stylegan2_generator
from stylert.runtime.backends import backend
from stylert.runtime.backends.base import LoadOptions
from stylert.runtime.bundle import MANIFEST, Bundle
from stylert.runtime.bundle_files import file_entries
from stylert.runtime.bundle_manifest import MAPPING_FILE
from stylert.runtime.session import Session

#: Backends that run the graph as it is written. The others choose forms of their own when they build.
TUNABLE = ("onnxruntime", "onnxruntime-cuda", "openvino")

#: Those that run on a GPU.
ON_GPU = ("onnxruntime-cuda",)

#: Those that accept computed quantisation scales.
FOLDS_MODULATION = ("onnxruntime",)


@dataclass(frozen=True)
class Tuning:
    """The result of tuning a bundle.

    Attributes:
        search: The search.
        psnr_kept: Whether the found plan keeps the promised PSNR.
        file: The network that was written, or None where the default stays.
    """

    search: Search
    psnr_kept: bool
    file: str | None

    @property
    def verdict(self) -> str:
        """The result in one line."""
        search = self.search
        incomplete = "" if search.complete else "; there was no time to try everything"
        if search.ratio_to_default is None:
            return f"the default stays: no change made it faster{incomplete}"
        speedup = f"{search.ratio_to_default.inverse} times as fast as the default"
        if self.file is not None:
            return f"{speedup}: wrote {self.file}{incomplete}"
        psnr = "" if self.psnr_kept else ", but misses the promised PSNR"
        return f"the default stays: the tuned network is {speedup}{psnr}{incomplete}"


def tune_bundle(
    path: str | Path,
    checkpoint: str | Path,
    backend_name: str,
    precision: str,
    threads: int | None = None,
    batch: int = 1,
    minutes: float = 10.0,
    forget: bool = False,
    progress: Progress | None = None,
) -> Tuning:
    """Search the fastest plan of one precision on one backend, and write its network into the bundle.

    The default stays where the search finds nothing faster. Time ratios are kept in the user's cache folder, so a
    later search measures less, also after Ctrl-C. The bundle changes at the end, all at once. Engines of the former network are not used
    any more.

    Args:
        path: The bundle.
        checkpoint: The file that the bundle was exported from.
        backend_name: One of `TUNABLE`.
        precision: One that the bundle holds.
        threads: The backend's threads, or None for its default.
        batch: Images per call while timing.
        minutes: About the time for the search.
        forget: Measure everything anew.
        progress: Called as the calibration and the search go on.

    Raises:
        InputError: The backend chooses its own forms, the checkpoint is another one, or a number is out of range.
        BackendError: The backend does not run here.
        BundleError: The bundle is damaged.
        OutputError: Its manifest is a link, or it cannot be written.
    """
    bundle, path = Bundle.load(path), Path(path)
    check_no_links(path / MANIFEST, path)
    check_writable(path / MANIFEST)
    promised_db = bundle.precision(precision).min_psnr_db
    _check_request(backend_name, precision, batch, minutes)
    check_same_checkpoint(bundle, Path(checkpoint))
    weights = read_stylegan2_generator(checkpoint, "stylert tune")
    default = _default_plan(bundle, weights, backend_name, precision, progress)
    latents = search_latents(weights.config, bundle.checked_file(MAPPING_FILE))
    inputs = _timing_inputs(bundle, latents, batch)
    cache = _RatioCache(cache_folder() / "forms.json", backend_name, precision, threads, batch, forget)
    with temporary_folder("tune") as folder:

        def open_plan(plan: NetworkPlan) -> _BoundSession:
            file = folder / "candidate.onnx"
            file.write_bytes(_network(bundle, weights, plan))
            return _BoundSession(backend(backend_name).load(file, LoadOptions(precision, threads)), inputs)

        try:
            search = search_forms(
                weights.config,
                default,
                open_plan,
                60 * minutes,
                known_ratios=cache.ratios,
                can_fold_modulation=backend_name in FOLDS_MODULATION,
                progress=progress,
                stage=f"tune {backend_name} {precision}",
            )
        finally:  # also after Ctrl-C, so that the next search goes on from here
            cache.save()
    if not search.faster:
        return Tuning(search, True, None)
    images = plan_images_on(weights, backend_name, precision)
    if precision in EIGHT_BIT and not reaches_psnr(weights, search.plan, latents, promised_db, images):
        return Tuning(search, False, None)
    data = _network(bundle, weights, search.plan)
    facts = {
        "layers": {spec.name: describe(search.plan.layer(spec)) for spec in weights.config.layers()},
        "cpu": cpu_identity(),
        "version": backend(backend_name).version(),
        "threads": threads,
        "batch": batch,
        "time over the default's": asdict(search.ratio_to_default) if search.ratio_to_default else {},
    }
    with changing_folder(path):
        now = Bundle.load(path)
        if _export_facts(now, precision) != _export_facts(bundle, precision):
            raise InputError(f"{path} was exported anew while it was tuned; tune it again, which measures only what is new")
        return Tuning(search, True, _write_network(now, path, backend_name, precision, data, facts))


def _export_facts(bundle: Bundle, precision: str) -> object:
    """All of a bundle that decides the network of a plan. Tuning changes none of it."""
    entry = bundle.precisions.get(precision)
    if entry is None:
        return None
    recipe = {name: value for name, value in entry.recipe.items() if name != "tuned"}
    return bundle.files[entry.file], bundle.files[MAPPING_FILE], entry.min_psnr_db, recipe, bundle.provenance


def _check_request(backend_name: str, precision: str, batch: int, minutes: float) -> None:
    if backend_name not in TUNABLE:
        raise InputError(
            f"{backend_name} takes no forms from stylert tune, because it chooses its own; choose from {', '.join(TUNABLE)}"
        )
    chosen = backend(backend_name)
    if precision not in chosen.facts.precisions:
        raise InputError(f"{backend_name} does not run {precision}, only: {', '.join(chosen.facts.precisions)}")
    if not 0 < minutes < float("inf") or batch < 1:
        raise InputError("minutes must be above 0, and a batch at least 1")
    if (reason := chosen.unavailable_reason()) is not None:
        raise BackendError(reason)


def _default_plan(
    bundle: Bundle, weights: GeneratorWeights, backend_name: str, precision: str, progress: Progress | None
) -> NetworkPlan:
    """The plan of the export. For 8 bits it calibrates again, and leaves the same layers out."""
    calibration = None
    if precision in EIGHT_BIT:
        calibration = calibrate(weights, calibration_latents(weights.config, bundle.path / MAPPING_FILE), progress)
    plan = backend_plan(weights, precision, backend_name, calibration) or canonical_plan(weights, precision, calibration)
    plan_name = bundle.plan_name(precision, backend_name)
    if plan_name != backend_name:
        plan = plan_without_vnni(plan, precision, backend_name) or plan
    exported_in_8_bits = layers_in_8_bits(bundle.precision(precision).recipe, plan_name)
    if calibration is None or exported_in_8_bits is None:
        return plan
    return plan.without_quantization([name for name in calibration if name not in exported_in_8_bits])


def _timing_inputs(bundle: Bundle, latents: list[np.ndarray], batch: int) -> dict[str, np.ndarray]:
    inputs = {"ws": np.concatenate([latents[i % len(latents)] for i in range(batch)])}
    rng = np.random.default_rng(0)
    for name, size in bundle.noise_sizes.items():
        inputs[name] = rng.standard_normal((batch, 1, *size), np.float32)
    return inputs | bundle.unmoved_styles(batch)


def _network(bundle: Bundle, weights: GeneratorWeights, plan: NetworkPlan) -> bytes:
    noise: NoiseInput = bundle.noise  # type: ignore[assignment]
    output: OutputType = bundle.output  # type: ignore[assignment]
    model = synthesis_model(weights, noise, output, plan, style_offsets=bundle.style_channels > 0)
    return model.SerializeToString(deterministic=True)


def _write_network(bundle: Bundle, path: Path, backend_name: str, precision: str, data: bytes, facts: dict[str, Any]) -> str:
    """Write a network as the backend's file of a precision, and return its name. An unused former file is removed."""
    entry, plan_name = bundle.precision(precision), bundle.plan_name(precision, backend_name)
    file = f"synthesis.{precision}.{plan_name}.tuned-{hashlib.sha256(data).hexdigest()[:8]}.onnx"
    tuned = entry.recipe.get("tuned", {})
    if not isinstance(tuned, dict):
        raise BundleError(f"the recipe of {precision} in {path / MANIFEST} is not one of export; export the bundle again")
    with atomic_file(path / file, within=path) as temporary:
        temporary.write_bytes(data)
    changed = replace(
        entry,
        plans=entry.plans | {plan_name: file},
        recipe=entry.recipe | {"tuned": tuned | {plan_name: facts}},
        accuracy={name: a for name, a in entry.accuracy.items() if name != plan_name},  # that was the former network's
    )
    precisions = bundle.precisions | {precision: changed}
    tuned_bundle = replace(bundle, precisions=precisions)
    used = tuned_bundle.networks
    files = {name: f for name, f in bundle.files.items() if name in used} | file_entries(path, [file])
    replace(tuned_bundle, files=files).save()
    former = entry.plans.get(plan_name)
    if former is not None and former not in used:
        (path / former).unlink(missing_ok=True)
    return file


class _BoundSession:
    """A session together with the inputs of its calls."""

    def __init__(self, session: Session, inputs: dict[str, np.ndarray]) -> None:
        self._session, self._inputs = session, inputs

    def __call__(self) -> object:
        return self._session.run(self._inputs)

    def close(self) -> None:
        self._session.close()


def _machine(backend_name: str) -> str:
    """The processor and, for a backend that runs on a GPU, the first GPU and its driver."""
    driver = find_gpus()
    if backend_name not in ON_GPU or not driver.gpus:
        return cpu_identity()
    return f"{cpu_identity()}, {driver.gpus[0].name}, CUDA {driver.cuda_version}"


class _RatioCache:
    """Time ratios of earlier searches (`Trial.time_ratio`) in a JSON file: by machine and settings, then by change."""

    def __init__(self, file: Path, backend_name: str, precision: str, threads: int | None, batch: int, forget: bool) -> None:
        self._file, self._forget = file, forget
        library = f"{backend_name} {backend(backend_name).version()}"
        self._key = f"{_machine(backend_name)}, {library}, {precision}, threads {threads}, batch {batch}"
        section = {} if forget else self._read().get(self._key, {})
        #: The ratios for this machine and these settings.
        self.ratios = {str(k): float(v) for k, v in section.items() if isinstance(v, int | float) and 0 < v <= 1}

    def save(self) -> None:
        """Add the ratios to those in the file, which other processes may have changed in the meantime.

        A cache that cannot be written is no failure: the search has found what it was for.
        """
        with suppress(OutputError, OSError):
            check_writable(self._file)
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with changing_folder(self._file.parent):
                sections = self._read()
                section = ({} if self._forget else sections.get(self._key, {})) | self.ratios
                with atomic_file(self._file) as temporary:
                    temporary.write_text(
                        json.dumps(sections | {self._key: section}, indent=1, sort_keys=True) + "\n", encoding="utf-8"
                    )

    def _read(self) -> dict[str, dict[str, Any]]:
        """The whole file; empty where it is missing or damaged."""
        try:
            content = read_document(read_file(self._file, InputError, MAX_BYTES), dict[str, Any], str(self._file), InputError)
        except InputError:
            return {}
        return {key: section for key, section in content.items() if isinstance(section, dict)}
