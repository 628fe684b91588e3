"""From checkpoint to bundle: one call that makes every file, or none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from stylert.export.defaults import backend_plan, canonical_plan
from stylert.export.mapping import mapping_model
from stylert.export.quantize import Calibration, calibrate
from stylert.export.synthesis import NoiseInput, OutputType, noise_name, synthesis_model
from stylert.runtime.atomic import atomic_directory
from stylert.runtime.backends import BACKENDS
from stylert.runtime.bundle import MAPPING_FILE, Bundle, PrecisionEntry, file_entries, sha256_of
from stylert.runtime.errors import InputError, OutputError
from stylert.runtime.latents import z_from_seeds
from stylert.train.checkpoint import GeneratorWeights
from stylert.train.importers.imported import read_any_generator

#: Precisions that can be exported, with the least PSNR against PyTorch that a bundle promises, in dB.
MIN_PSNR_DB = {"fp32": 60.0, "fp16": 45.0, "bf16": 35.0, "int8": 30.0}

CALIBRATION_SAMPLES = 64
#: Far from the small seeds that people look at, so that no picture is judged on the latents that set the scales.
CALIBRATION_FIRST_SEED = 1_000_000_000

#: Backends that get their own form where they have one; TensorRT-RTX, which not everyone has, is asked for by name.
DEFAULT_BACKENDS = ("onnxruntime", "openvino")

BF16_RECIPE: dict[str, Any] = {"everything": "bfloat16, where the backend sees fit; float32 weights in the file"}
HALF_RECIPE: dict[str, Any] = {"convolutions": "float16, weights and styles normalised", "styles, demodulation, RGB": "float32"}

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
) -> Bundle:
    """Write the bundle of a checkpoint's generator into the folder `out`. The same input gives the same bytes.

    Each precision has one canonical file, and one more for each of `backends` that runs another form better (`defaults.py`).
    `checkpoint` is stylert's own file, or one of another project that `stylert.train.importers` reads.

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
    if not precisions or len(set(precisions)) != len(precisions):
        raise InputError("name each precision once, and at least one")
    if out.exists() and not force and not (out / "bundle.json").is_file():
        raise OutputError(f"{out} exists and is not a bundle; choose another folder")
    weights = read_any_generator(checkpoint)
    cfg = weights.config
    with atomic_directory(out) as folder:
        _save(mapping_model(weights), folder / MAPPING_FILE)
        calibration, recipes = None, {"fp16": HALF_RECIPE, "bf16": BF16_RECIPE}
        if "int8" in precisions:
            batches = _calibration_latents(weights, folder / MAPPING_FILE)
            calibration = calibrate(
                weights, batches, None if progress is None else lambda d, t: progress("calibrate int8", d, t)
            )
            recipes["int8"] = _int8_recipe(calibration)
        entries = {}
        for precision in precisions:
            # bfloat16 is how a backend runs the float32 file, not a file of its own.
            name, plans = f"synthesis.{'fp32' if precision == 'bf16' else precision}.onnx", {}
            _save(synthesis_model(weights, noise, output, canonical_plan(weights, precision, calibration)), folder / name)
            for backend in backends:
                plan = backend_plan(weights, precision, backend, calibration)
                if plan is not None:
                    plans[backend] = f"synthesis.{precision}.{backend}.onnx"
                    _save(synthesis_model(weights, noise, output, plan), folder / plans[backend])
            entries[precision] = PrecisionEntry(name, MIN_PSNR_DB[precision], recipes.get(precision, {}), plans=plans)
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
    return Bundle.load(out)


def _int8_recipe(calibration: Calibration) -> dict[str, Any]:
    return {
        "layers": sorted(calibration),
        "calibration": {"samples": CALIBRATION_SAMPLES, "first_seed": CALIBRATION_FIRST_SEED},
        "activations": "int8 per tensor, clip of the best mean signal-to-noise ratio",
        "weights": "int8 per channel",
    }


def _calibration_latents(weights: GeneratorWeights, mapping: Path) -> list[np.ndarray]:
    """ws as they are served: psi from 0.5 to 1, half of them with styles mixed at a random layer; one per batch."""
    cfg = weights.config
    session = ort.InferenceSession(mapping, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(CALIBRATION_FIRST_SEED)
    seeds = range(CALIBRATION_FIRST_SEED, CALIBRATION_FIRST_SEED + 2 * CALIBRATION_SAMPLES)
    inputs = {"z": z_from_seeds(seeds, cfg.z_dim)}
    inputs["psi"] = np.repeat(rng.uniform(0.5, 1.0, (len(seeds), 1)), cfg.num_ws, 1).astype(np.float32)
    if cfg.c_dim:
        inputs["c"] = np.eye(cfg.c_dim, dtype=np.float32)[rng.integers(cfg.c_dim, size=len(seeds))]
    ws = session.run(["ws"], inputs)[0]
    ws, other = ws[:CALIBRATION_SAMPLES], ws[CALIBRATION_SAMPLES:]
    for i in range(0, CALIBRATION_SAMPLES, 2):
        crossover = int(rng.integers(1, cfg.num_ws))
        ws[i, crossover:] = other[i, crossover:]
    return [ws[i : i + 1] for i in range(CALIBRATION_SAMPLES)]


def _save(model: onnx.ModelProto, path: Path) -> None:
    path.write_bytes(model.SerializeToString(deterministic=True))
