"""From a public checkpoint of a restoration network to its bundle: one call that writes every file, or none."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from stylert.core.errors import BundleError, InputError, OutputError, StylertError, as_path, shown
from stylert.core.files.atomic import atomic_directory
from stylert.core.files.digests import sha256_of
from stylert.core.files.marks import is_unchanged
from stylert.core.files.outputs import check_not_around, document_text
from stylert.core.files.temporary import temporary_folder
from stylert.core.progress import Progress
from stylert.export.restoration.calibration import calibrate, float16_plan, images_on_cpu, int8_plan, search_plan
from stylert.export.restoration.network import restoration_model
from stylert.export.restoration.photographs import photographs
from stylert.export.restoration.verify import RestorerAccuracy, torch_images, verify_restorer
from stylert.models.restoration.checkpoints import RestorerWeights, read_restorer
from stylert.runtime.backends import backend
from stylert.runtime.backends.base import LoadOptions
from stylert.runtime.bundle import check_utf8
from stylert.runtime.bundle_files import PrecisionEntry, file_entries
from stylert.runtime.restoration.bundle import MANIFEST, PHOTO, RestorerBundle

#: The precisions, each with the PSNR to PyTorch's images that a bundle promises at least, in dB.
MIN_PSNR_DB = {"fp32": 60.0, "fp16": 50.0, "int8": 35.0}
#: The name of the plan that every backend without a file of its own runs.
CANONICAL = "onnxruntime"


class RestorerPsnrMissed(StylertError):
    """A precision missed the PSNR that it has to keep. Nothing was written."""


def export_restorer(
    checkpoint: str | Path,
    out: str | Path,
    precisions: Sequence[str] = ("fp32",),
    photos: Sequence[Path] = (),
    progress: Progress | None = None,
    force: bool = False,
) -> tuple[RestorerBundle, list[RestorerAccuracy]]:
    """Write the bundle of a restoration network.

    Args:
        checkpoint: A public `.pth` file of GFP-GAN or GPEN.
        out: The folder to write. It must not exist yet, be empty, or be a bundle of a restorer, which is replaced.
        precisions: Names from `MIN_PSNR_DB`.
        photos: Photographs of aligned faces, for float16 and int8 and for the measured accuracy. Without any, they are drawn, and the
            accuracy is that of others than those that float16 and int8 have seen.
        progress: Called as the stages go on.
        force: Replace `out` whatever it is.

    Returns:
        The bundle, and the accuracy of each precision on each backend that is installed.

    Raises:
        CheckpointError: The checkpoint is damaged or not supported.
        InputError: A precision is unknown, or there is only one photograph.
        RestorerPsnrMissed: A precision misses its PSNR. Nothing is written.
        OutputError: `out` cannot be written, or holds files of others.
    """
    out, checkpoint = as_path(out, "bundle"), as_path(checkpoint, "checkpoint")
    check_utf8(out)
    if not precisions or len(set(precisions)) != len(precisions):
        raise InputError("give at least one precision, and each only once")
    for name in precisions:
        if name not in MIN_PSNR_DB:
            raise InputError(f"a restorer is exported in {', '.join(MIN_PSNR_DB)}, not in {shown(name)}")
    if not force and os.path.lexists(out) and not (out / MANIFEST).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise OutputError(f"{out} exists and is no bundle of a restorer; choose another folder")
    check_not_around(out, [checkpoint, *photos])
    weights = read_restorer(checkpoint)
    samples = photographs(weights.config.resolution, photos)
    with atomic_directory(out, None if force else own_files) as folder:
        entries = {}
        for precision in precisions:
            recipe, models = _networks(weights, precision, samples, progress)
            files = {}
            for plan, model in models:
                files[plan] = f"restorer.{precision}.onnx" if plan == CANONICAL else f"restorer.{precision}.{plan}.onnx"
                (folder / files[plan]).write_bytes(model.SerializeToString(deterministic=True))
            entries[precision] = PrecisionEntry(files.pop(CANONICAL), MIN_PSNR_DB[precision], recipe, plans=files)
        bundle = RestorerBundle(
            folder,
            weights.config.network,
            weights.config.resolution,
            file_entries(folder, sorted(file for entry in entries.values() for file in entry.files)),
            entries,
            {
                "checkpoint": document_text(checkpoint.name),
                "checkpoint_sha256": sha256_of(checkpoint),
                "stylert": version("stylert"),
                "photographs": "drawn" if not photos else len(samples),
                "notes": list(weights.notes),
                "model": weights.config.to_dict(),
            },
        )
        bundle.save()
        fresh = samples if photos else photographs(weights.config.resolution, first_seed=len(samples))
        reference = torch_images(weights, fresh) if find_spec("torch") else images_on_cpu(restoration_model(weights), fresh)
        rows = verify_restorer(RestorerBundle.load(folder), fresh, reference, progress=progress)
        if missed := [row for row in rows if not row.passed]:
            row = missed[0]
            raise RestorerPsnrMissed(
                f"{row.precision} on {row.backend} has {row.psnr_db:.1f} dB and needs {row.min_psnr_db:g}: {out} is not written"
            )
        with_accuracy = {
            name: replace(entry, accuracy={row.backend: _accuracy(row) for row in rows if row.precision == name})
            for name, entry in entries.items()
        }
        replace(bundle, precisions=with_accuracy).save()
    return RestorerBundle.load(out), rows


def own_files(folder: Path) -> set[str]:
    """The names of the files in a bundle that export wrote. Empty for another folder."""
    try:
        listed = RestorerBundle.load(folder).files
    except BundleError:
        return set()
    return {MANIFEST} | {name for name, file in listed.items() if is_unchanged(folder / name, file.bytes, file.sha256)}


def _networks(
    weights: RestorerWeights, precision: str, photos: np.ndarray, progress: Progress | None
) -> tuple[dict[str, Any], Iterator[tuple[str, onnx.ModelProto]]]:
    """The recipe of a precision, and its models by the plan's name."""
    if precision == "fp32":
        return {}, iter([(CANONICAL, restoration_model(weights))])
    if precision == "fp16":
        plan = float16_plan(weights, photos)
        recipe: dict[str, Any] = {"encoder_scale": plan.encoder_scale, "decoder_scale": plan.decoder_scale}
        return recipe, iter([(CANONICAL, restoration_model(weights, plan))])
    calibration, recipe, models = calibrate(weights, photos, progress), {}, []
    for name in (CANONICAL, "openvino"):
        runs_here = backend(name).unavailable_reason() is None
        images = partial(_images_on, name if runs_here else CANONICAL)
        first = int8_plan(calibration, name)
        plan, found = search_plan(weights, calibration, first, photos, MIN_PSNR_DB["int8"], images, progress)
        recipe[name] = {
            "layers_in_8_bits": len(plan.quantized),
            "higher_precision": dict(found.higher_precision),
            "psnr_db": round(found.psnr_db, 2),
            "judged_on": name if runs_here else CANONICAL,
        }
        models.append((name, restoration_model(weights, plan)))
    return recipe, iter(models)


def _images_on(name: str, model: onnx.ModelProto, photos: np.ndarray) -> np.ndarray:
    """The images of an int8 model on a backend, one photograph after another."""
    with temporary_folder("restorer") as folder:
        file = folder / "network.onnx"
        file.write_bytes(model.SerializeToString())
        session = backend(name).load(file, LoadOptions("int8"))
        try:
            return np.concatenate([session.run({PHOTO: photo[None]}) for photo in photos])
        finally:
            session.close()


def _accuracy(row: RestorerAccuracy) -> dict[str, Any]:
    return {
        "photographs": row.photographs,
        "psnr_db": round(row.psnr_db, 3),
        "worst_psnr_db": round(row.worst_psnr_db, 3),
    }
