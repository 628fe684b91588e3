"""From checkpoint to bundle: one call that makes every file, or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx

from stylert.core.atomic import atomic_directory
from stylert.core.errors import InputError, OutputError
from stylert.export.defaults import backend_plan, canonical_plan
from stylert.export.mapping import mapping_model
from stylert.export.plan import NetworkPlan, without
from stylert.export.quantization.calibration import INPUT_CLIPPING, OUTPUT_CLIPPING, calibrate
from stylert.export.quantization.latents import (
    CALIBRATION_FIRST_SEED,
    CALIBRATION_SAMPLES,
    SEARCH_SAMPLES,
    calibration_latents,
    search_latents,
)
from stylert.export.quantization.sensitivity import Sensitivity, layers_left_out, reference_images, same_rounding
from stylert.export.synthesis import NoiseInput, OutputType, noise_name, synthesis_model
from stylert.export.verify import accuracy_entry, verify
from stylert.models.checkpoint import GeneratorWeights
from stylert.models.importers.imported import read_any_generator
from stylert.runtime.backends import BACKENDS
from stylert.runtime.bundle import MAPPING_FILE, Bundle, PrecisionEntry, file_entries, sha256_of

#: Precisions that can be exported, with the least PSNR against PyTorch that a bundle promises, in dB.
MIN_PSNR_DB = {"fp32": 60.0, "fp16": 45.0, "bf16": 35.0, "int8": 33.0, "fp8": 30.0}

EIGHT_BIT = ("int8", "fp8")

#: Backends that get their own form where they have one; TensorRT-RTX, which not everyone has, is asked for by name.
DEFAULT_BACKENDS = ("onnxruntime", "openvino")

BF16_RECIPE: dict[str, Any] = {"everything": "bfloat16, where the backend sees fit; float32 weights in the file"}
HALF_RECIPE: dict[str, Any] = {"convolutions": "float16, weights and styles normalised", "styles, demodulation, RGB": "float32"}

EIGHT_BIT_FACTS: dict[str, dict[str, Any]] = {
    "int8": {
        "activations": f"8 bits per tensor; range of every sample, or where a backend takes none {INPUT_CLIPPING}",
        "outputs": f"8 bits per tensor, {OUTPUT_CLIPPING}, on ONNX Runtime, and before the FIR on OpenVINO",
        "weights": "int8 per channel",
    },
    "fp8": {
        "activations": "E4M3 per tensor, room for twice what calibration saw",
        "weights": "E4M3 per channel",
        "rest": HALF_RECIPE,
    },
}

#: Nearly exact already; identical images would have 100.
MAX_MIN_PSNR_DB = 60.0

#: `(stage, done, total)`
Progress = Callable[[str, int, int], None]


def export_bundle(
    checkpoint: str | Path,
    out: str | Path,
    precisions: Sequence[str] = ("fp32", "int8"),
    noise: NoiseInput = "const",
    output: OutputType = "uint8",
    backends: Sequence[str] = DEFAULT_BACKENDS,
    force: bool = False,
    progress: Progress | None = None,
    min_psnr: float | None = None,
    verify_seeds: int = 0,
) -> Bundle:
    """Write the bundle of a checkpoint's generator into the folder `out`. The same input gives the same bytes.

    Each precision has one canonical file, and one more for each of `backends` that runs another form better (`defaults.py`).
    `checkpoint` is stylert's own file, or one of another project that `stylert.models.importers` reads.

    Where 8 bits in every layer do not reach `min_psnr` dB (by default what `MIN_PSNR_DB` promises), layers stay in higher precision
    until they do, as little arithmetic as suffices, for each file by itself; the recipe in `bundle.json` names them and says why.
    With `verify_seeds` the accuracy of each precision on each backend that runs here is measured against PyTorch, or fp32 without
    it, and kept in `bundle.json`, and the worst seeds are drawn beside it.

    Raises CheckpointError for a bad checkpoint, InputError for an unknown precision, and OutputError when `out` exists
    and is not a bundle, or cannot be written. Nothing is left half-written.
    """
    out = Path(out)
    for precision in precisions:
        if precision not in MIN_PSNR_DB:
            raise InputError(f"unknown precision {precision!r}: choose from {', '.join(MIN_PSNR_DB)}")
    for backend in backends:
        if backend not in BACKENDS:
            raise InputError(f"unknown backend {backend!r}: choose from {', '.join(BACKENDS)}")
    if min_psnr is not None and ("int8" not in precisions or not 0 < min_psnr <= MAX_MIN_PSNR_DB):
        raise InputError(f"min_psnr is a PSNR of int8 images in dB, above 0 and at most {MAX_MIN_PSNR_DB:g}, not {min_psnr!r}")
    if verify_seeds < 0:
        raise InputError(f"verify_seeds is a number of seeds, or 0 for none, not {verify_seeds!r}")
    if verify_seeds and find_spec("torch") is None and "fp32" not in precisions:
        raise InputError("verification compares with PyTorch, which is not installed, or with fp32: add it, or take no seeds")
    if not precisions or len(set(precisions)) != len(precisions):
        raise InputError("name each precision once, and at least one")
    if out.exists() and not force and not (out / "bundle.json").is_file():
        raise OutputError(f"{out} exists and is not a bundle; choose another folder")
    weights = read_any_generator(checkpoint)
    cfg = weights.config
    promised = MIN_PSNR_DB | ({} if min_psnr is None else {"int8": min_psnr})
    with atomic_directory(out) as folder:
        _save(mapping_model(weights), folder / MAPPING_FILE)
        calibration, recipes = None, {"fp16": HALF_RECIPE, "bf16": BF16_RECIPE}
        if set(EIGHT_BIT) & set(precisions):
            batches = calibration_latents(cfg, folder / MAPPING_FILE)
            calibration = calibrate(weights, batches, _stage(progress, "calibrate 8 bits"))
            latents = search_latents(cfg, folder / MAPPING_FILE)
            exact = reference_images(weights, latents)
        entries = {}
        for precision in precisions:
            # bfloat16 is how a backend runs the float32 file, not a file of its own.
            stem = "synthesis.fp32" if precision == "bf16" else f"synthesis.{precision}"
            plans = {"": canonical_plan(weights, precision, calibration)}
            plans |= {b: plan for b in backends if (plan := backend_plan(weights, precision, b, calibration)) is not None}
            recipe = recipes.get(precision, {})
            if calibration is not None and precision in EIGHT_BIT:
                searches: dict[str, Sensitivity] = {}
                for b, plan in plans.items():
                    twin = next((other for other in searches if same_rounding(plans[other], plan)), None)
                    if twin is not None:
                        searches[b] = searches[twin]
                        continue
                    stage = _stage(progress, f"search {precision} layers {b}".strip())
                    searches[b] = layers_left_out(weights, plan, latents, exact, promised[precision], stage)
                plans = {b: without(plan, list(searches[b].kept)) for b, plan in plans.items()}
                recipe = _eight_bit_recipe(weights, plans, searches) | EIGHT_BIT_FACTS[precision]
            files = {b: f"{stem}.{b}.onnx" if b else f"{stem}.onnx" for b in plans}
            for b, plan in plans.items():
                _save(synthesis_model(weights, noise, output, plan), folder / files[b])
            entries[precision] = PrecisionEntry(files.pop(""), promised[precision], recipe, plans=files)
        noise_inputs = {noise_name(s): s.resolution for s in cfg.layers() if s.kind == "conv"} if noise == "input" else {}
        bundle = Bundle(
            path=folder,
            model=cfg.to_dict(),
            num_ws=cfg.num_ws,
            noise=noise,
            noise_inputs=noise_inputs,
            output=output,
            files=file_entries(folder, [MAPPING_FILE, *sorted({f for e in entries.values() for f in e.files})]),
            precisions=entries,
            provenance={
                "checkpoint": Path(checkpoint).name,
                "checkpoint_sha256": sha256_of(Path(checkpoint)),
                "stylert": version("stylert"),
                "info": weights.info,
            },
        )
        bundle.save()
        if verify_seeds:
            against = checkpoint if find_spec("torch") else None
            rows = verify(bundle, against, seeds=verify_seeds, progress=progress, pictures=folder)
            entries = {p: replace(e, accuracy=accuracy_entry(rows, p)) for p, e in entries.items()}
            replace(bundle, precisions=entries).save()
    return Bundle.load(out)


def _stage(progress: Progress | None, stage: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(stage, done, total)


def _eight_bit_recipe(
    weights: GeneratorWeights, plans: Mapping[str, NetworkPlan], searches: Mapping[str, Sensitivity]
) -> dict[str, Any]:
    """What a reader of `bundle.json` wants to know: which layers are in 8 bits, how, and why the others are not.

    `plans` and `searches` by backend; "" is the canonical file's, whose answer stands at the top.
    """
    found = {backend: _search_recipe(weights, plans[backend], search) for backend, search in searches.items()}
    return found.pop("") | {
        "backends": found,
        "calibration": {"samples": CALIBRATION_SAMPLES, "first_seed": CALIBRATION_FIRST_SEED},
    }


def _search_recipe(weights: GeneratorWeights, plan: NetworkPlan, found: Sensitivity) -> dict[str, Any]:
    in_8_bits = sorted(name for name, layer in plan.layers.items() if layer.eight_bit is not None)
    reasons = {
        spec.name: f"search: alone it costs {found.kept[spec.name]:.1f} dB"
        if spec.name in found.kept
        else f"too small: {spec.in_channels} to {spec.out_channels} channels at {spec.resolution} px"
        for spec in weights.config.layers()
        if spec.name in found.kept or (spec.kind == "conv" and spec.name not in in_8_bits)
    }
    return {
        "layers": in_8_bits,
        "higher_precision": reasons,
        "search": {"psnr_db": round(found.psnr_db, 2), "evaluations": found.evaluations, "samples": SEARCH_SAMPLES},
    }


def _save(model: onnx.ModelProto, path: Path) -> None:
    path.write_bytes(model.SerializeToString(deterministic=True))
