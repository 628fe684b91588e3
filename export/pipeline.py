"""From a checkpoint to a bundle: one call that writes every file, or none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from numbers import Real
from pathlib import Path
from typing import get_args

import onnx

from stylert.core.errors import BundleError, InputError, OutputError, as_path, shown
from stylert.core.files.atomic import atomic_directory
from stylert.core.files.digests import sha256_of
from stylert.core.files.marks import is_unchanged
from stylert.core.files.outputs import check_not_around, document_text
from stylert.core.progress import Progress
from stylert.export.image_output import OutputType
from stylert.export.mapping import mapping_model
from stylert.export.networks.exporter import ExportRequest
from stylert.export.networks.exporters import exporter_of
from stylert.export.quantization.quantization_record import CANONICAL
from stylert.export.synthesis_graph import NoiseInput
from stylert.export.verify import MAX_SEEDS, WORST_IMAGES, Accuracy, PsnrMissed, accuracy_entry, verify
from stylert.models.importers.import_checkpoint import read_any_generator
from stylert.runtime import engines
from stylert.runtime.backends import BACKENDS
from stylert.runtime.bundle import MANIFEST, Bundle, check_utf8
from stylert.runtime.bundle_files import PrecisionEntry, file_entries
from stylert.runtime.bundle_manifest import MAPPING_FILE
from stylert.runtime.bundle_signature import SIGNATURE_FILE
from stylert.runtime.input_checks import whole_number, yes_or_no

#: The precisions that can be exported, each with the PSNR against PyTorch that a bundle promises at least, in dB.
MIN_PSNR_DB = {"fp32": 60.0, "fp16": 45.0, "bf16": 35.0, "int8": 33.0, "fp8": 30.0}

#: The greatest PSNR that int8 can be asked for, in dB. Such images are nearly exact; identical ones have 100 dB.
MAX_MIN_PSNR_DB = 60.0

#: Backends that get a file of their own by default. TensorRT-RTX is asked for by name, because not everyone has it.
DEFAULT_BACKENDS = ("onnxruntime", "openvino")


def export_bundle(
    checkpoint: str | Path,
    out: str | Path,
    precisions: Sequence[str] | None = None,
    noise: NoiseInput = "const",
    output: OutputType | None = None,
    backends: Sequence[str] = DEFAULT_BACKENDS,
    force: bool = False,
    progress: Progress | None = None,
    min_psnr: float | None = None,
    verify_seeds: int = 0,
    style_offsets: bool = False,
) -> Bundle:
    """Write the bundle of a checkpoint's generator. The same input gives the same bytes.

    Args:
        checkpoint: stylert's own file, or one of another project that `stylert.models.importers` reads.
        out: The folder to write. It must not exist yet, be empty, or be a bundle. A bundle is replaced as a whole, with its
            engines, unless it holds files that neither export nor build wrote.
        precisions: Names from `MIN_PSNR_DB`, or None for those that suit the network. Each has one canonical file, and one
            more for each backend with a default plan of its own.
        noise: The source of the noise of the networks.
        output: The type of the images. None takes float for images of measured values, and uint8 for pictures.
        backends: Those that get a file of their own.
        force: Replace `out` whatever it is.
        progress: Called as the stages go on.
        min_psnr: The PSNR of int8 images in dB, by default that of `MIN_PSNR_DB`. If 8 bits in every layer do not reach
            it, the most sensitive layers stay in higher precision, for each file by itself. The recipe in `bundle.json`
            names them.
        verify_seeds: Images to verify for each precision on each backend that runs here, or 0. The reference is
            PyTorch, or fp32 where PyTorch is not installed. The accuracy is kept in `bundle.json`, and the worst images
            are drawn beside it. A precision that misses its PSNR on one of them is left out.
        style_offsets: Whether the networks take offsets of the styles as an input, for moves in the StyleSpace.

    Raises:
        CheckpointError: The checkpoint is damaged or not supported.
        InputError: A precision, backend or number is wrong, or a marked generator would lose its mark.
        PsnrMissed: A precision misses its PSNR. The bundle is written without it, unless no other precision is left.
        OutputError: `out` is something other than a bundle, holds other files as well, or cannot be written. Nothing is
            left half-written.
    """
    out = as_path(out, "bundle")
    check_utf8(out)
    _check_request(precisions, backends, min_psnr, verify_seeds)
    force, style_offsets = yes_or_no(force, "force"), yes_or_no(style_offsets, "style_offsets")
    for name, value, known in (("noise", noise, get_args(NoiseInput)), ("output", output, get_args(OutputType))):
        if not (name == "output" and value is None) and (not isinstance(value, str) or value not in known):
            raise InputError(f"{name} is one of {', '.join(known)}, not {shown(value)}")
    if not force and os.path.lexists(out) and not (out / MANIFEST).is_file() and not _is_empty_folder(out):
        raise OutputError(f"{out} exists and is not a bundle; choose another folder")
    check_not_around(out, [as_path(checkpoint, "checkpoint")])
    weights = read_any_generator(checkpoint)
    if noise != "const" and "watermark" in weights.info:
        raise InputError(f"{checkpoint} is marked, and its mark lies in the constant noise: export it with --noise const")
    cfg = weights.config
    output = output or ("uint8" if cfg.image_channels is None else "float")
    exporter = exporter_of(cfg)(weights, ExportRequest(precisions, noise, output, backends, style_offsets))
    _check_precisions(exporter.chosen, min_psnr, verify_seeds)
    promised_db = MIN_PSNR_DB | ({} if min_psnr is None else {"int8": min_psnr})
    with atomic_directory(out, None if force else own_files) as folder:
        _save(mapping_model(weights), folder / MAPPING_FILE)
        entries = {}
        for precision in exporter.chosen:
            networks = exporter.networks(precision, folder / MAPPING_FILE, promised_db[precision], progress)
            files = {}
            for plan, model in networks.models:
                files[plan] = _file_name(precision, plan)
                _save(model, folder / files[plan])
            canonical = files.pop(CANONICAL)
            entries[precision] = PrecisionEntry(canonical, promised_db[precision], networks.recipe, plans=files)
        synthesis_files = {file for entry in entries.values() for file in entry.files}
        bundle = Bundle(
            path=folder,
            model={name: value for name, value in cfg.to_dict().items() if name != "image_channels"},
            num_ws=cfg.num_ws,
            noise=exporter.noise,
            noise_inputs=dict(exporter.noise_inputs),
            output=output,
            files=file_entries(folder, [MAPPING_FILE, *sorted(synthesis_files)]),
            precisions=entries,
            provenance={
                # JSON holds no bytes that are not UTF-8.
                "checkpoint": document_text(Path(checkpoint).name),
                "checkpoint_sha256": sha256_of(checkpoint),
                "stylert": version("stylert"),
                "info": weights.info,
            },
            style_channels=exporter.style_channels,
            channels=cfg.image_channels or (),
        )
        bundle.save()
        missed: list[Accuracy] = []
        if verify_seeds:
            against = checkpoint if find_spec("torch") else None
            rows = verify(bundle, against, seeds=verify_seeds, progress=progress, pictures=folder)
            missed = [row for row in rows if not row.passed]
            _save_verified(bundle, rows, missed)
        Bundle.load(folder)  # what cannot be read replaces nothing
    bundle = Bundle.load(out)
    if missed:
        raise PsnrMissed(missed, bundle)
    return bundle


#: Names of the networks of `stylert tune`, and of those of `stylert encoder export`.
TUNED_NETWORKS = "synthesis.*.tuned-????????.onnx"
ENCODER_NETWORKS = "encoder.*.onnx"


def own_files(folder: Path) -> set[str]:
    """The names, relative to a bundle, of the files that export, verify, tune and build wrote. Empty for another folder.

    A network counts as long as its bytes are those that the manifest lists. The manifest may come from others.
    """
    try:
        listed = Bundle.load(folder).files
    except BundleError:
        return set()
    names = {MANIFEST, SIGNATURE_FILE}
    names |= {name for name, file in listed.items() if is_unchanged(folder / name, file.bytes, file.sha256)}
    names |= {path.name for path in folder.glob(WORST_IMAGES.format(precision="*", backend="*"))}
    for written in (TUNED_NETWORKS, ENCODER_NETWORKS):  # also one that a killed command has not listed yet
        names |= {path.name for path in folder.glob(written)}
    for backend in BACKENDS:
        for engine in folder.glob(f"engines/{backend}-*"):
            names |= {f"engines/{engine.name}/{name}" for name in engines.own_files(backend)}
    return names


def _save_verified(bundle: Bundle, rows: Sequence[Accuracy], missed: Sequence[Accuracy]) -> None:
    """Save the accuracy of the precisions that keep their PSNR, and remove the files of the others."""
    missing = {row.precision for row in missed}
    entries = {
        name: replace(entry, accuracy=accuracy_entry(rows, name))
        for name, entry in bundle.precisions.items()
        if name not in missing
    }
    if not entries:
        raise PsnrMissed(missed, None)
    kept = replace(bundle, precisions=entries)
    for file in set(bundle.files) - kept.networks:
        (bundle.path / file).unlink()
    replace(kept, files={name: file for name, file in bundle.files.items() if name in kept.networks}).save()


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _check_request(
    precisions: Sequence[str] | None, backends: Sequence[str], min_psnr: float | None, verify_seeds: int
) -> None:
    for kind, names, known in (("precision", precisions, MIN_PSNR_DB), ("backend", backends, BACKENDS)):
        if kind == "precision" and names is None:
            continue
        if not isinstance(names, Sequence) or isinstance(names, str | bytes):
            raise InputError(f"{kind}s are a list of names, not {shown(names)}")
        for name in names:
            if not isinstance(name, str) or name not in known:
                raise InputError(f"unknown {kind} {shown(name)}: choose from {', '.join(known)}")
    whole_number(verify_seeds, "verify_seeds", 0, MAX_SEEDS)
    if precisions is not None:
        _check_precisions(precisions, min_psnr, verify_seeds)


def _check_precisions(precisions: Sequence[str], min_psnr: float | None, verify_seeds: int) -> None:
    if min_psnr is not None and (
        "int8" not in precisions or not isinstance(min_psnr, Real) or not 0 < min_psnr <= MAX_MIN_PSNR_DB
    ):
        raise InputError(f"min_psnr needs int8, and must be above 0 and at most {MAX_MIN_PSNR_DB:g} dB, not {shown(min_psnr)}")
    if verify_seeds and find_spec("torch") is None and "fp32" not in precisions:
        raise InputError("verification needs PyTorch, which is not installed, or fp32: add fp32, or set verify_seeds to 0")
    if not precisions or len(set(precisions)) != len(precisions):
        raise InputError("give at least one precision, and each only once")


def _file_name(precision: str, backend: str) -> str:
    # bfloat16 has no file of its own: a backend that computes in it reads the float32 file.
    stem = "synthesis.fp32" if precision == "bf16" else f"synthesis.{precision}"
    return f"{stem}.onnx" if backend == CANONICAL else f"{stem}.{backend}.onnx"


def _save(model: onnx.ModelProto, path: Path) -> None:
    path.write_bytes(model.SerializeToString(deterministic=True))
