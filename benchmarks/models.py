"""The models that a benchmark measures: a user's bundle, or a standard model with its bundle in the cache folder."""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylert.benchmarks.standard_networks import NAMES, title_of, write_standard
from stylert.core.errors import BundleError, InputError, StylertError, shown_line
from stylert.core.files.cache import cache_folder
from stylert.core.files.outputs import document_text
from stylert.core.progress import Progress
from stylert.models.network_config import BaseGeneratorConfig
from stylert.models.network_kinds import generator_config, parameter_count
from stylert.runtime.backends import onnxruntime
from stylert.runtime.bundle import MANIFEST, Bundle

#: Precisions of a standard model if none are given, by the title of its network. Networks but StyleGAN2's are exported in
#: these alone.
STANDARD_PRECISIONS = {
    "StyleGAN1": ("fp32", "fp16", "int8"),
    "StyleGAN2": ("fp32", "bf16", "int8"),
    "StyleGAN3": ("fp32", "fp16"),
}

#: All that export may import decides the bytes of a standard model's bundle, beside its weights.
BUNDLE_SOURCES = ("benchmarks/standard_networks.py", "core", "export", "models", "plugins", "runtime")

#: Libraries that write the networks or compute the latents of the calibration.
BUNDLE_LIBRARIES = ("numpy", "onnx", "onnxruntime")

#: Models in the cache that no checkout has used for so many days are deleted.
UNUSED_DAYS = 30


@dataclass(frozen=True)
class Model:
    """A bundle to measure.

    Attributes:
        name: Name of the model in the results.
        bundle: The bundle.
        checkpoint: The file that the bundle was exported from, or None if it is not available.
    """

    name: str
    bundle: Bundle
    checkpoint: Path | None = None


def user_model(path: Path) -> Model:
    """A user's bundle, named after its checkpoint. Raises as `Bundle.load`."""
    bundle = Bundle.load(path)
    return Model(document_text(Path(str(bundle.provenance.get("checkpoint", path.name))).stem), bundle)


def default_precisions(names: Sequence[str]) -> tuple[str, ...]:
    """The precisions in which all of these standard models are measured if none are given."""
    kinds = [STANDARD_PRECISIONS[title_of(name)] for name in names]
    return tuple(precision for precision in kinds[0] if all(precision in kind for kind in kinds))


def standard_model(name: str, precisions: Sequence[str], progress: Progress | None = None, cache: Path | None = None) -> Model:
    """A standard model with at least these precisions, from the cache or exported now.

    The larger models take minutes to export. Each version of the sources has a folder of its own, so checkouts do not
    disturb each other.

    Args:
        name: One of `standard_networks.NAMES`.
        precisions: Precisions that the bundle must have.
        progress: Called while the bundle is exported.
        cache: Cache folder, by default the user's.

    Raises:
        InputError: The name or a precision is unknown.
        OutputError: The cache folder cannot be written.
    """
    from stylert.export.pipeline import MIN_PSNR_DB, export_bundle

    if name not in NAMES:
        raise InputError(f"unknown standard model {name!r}: choose from {', '.join(NAMES)}")
    for precision in precisions:
        if precision not in MIN_PSNR_DB:
            raise InputError(f"unknown precision {precision!r}: choose from {', '.join(MIN_PSNR_DB)}")
    models = (cache or cache_folder()) / "models"
    folder = models / f"{name}-{_sources_digest(Path(__file__).resolve().parent.parent)}"
    checkpoint = folder / f"{name}.safetensors"
    if folder.is_dir():
        os.utime(folder)  # it is in use
    _delete_unused(models, name)
    cached = _cached_bundle(folder, precisions)
    if cached is not None:
        return Model(name, cached, checkpoint if checkpoint.is_file() else None)
    folder.mkdir(parents=True, exist_ok=True)
    if progress is not None:
        progress(f"make {name}", 0, 1)
    write_standard(name, checkpoint)
    bundle = export_bundle(checkpoint, folder / "-".join(sorted(precisions)), list(precisions), force=True, progress=progress)
    if progress is not None:
        progress(f"make {name}", 1, 1)
    return Model(name, bundle, checkpoint)


def bundle_config(bundle: Bundle) -> BaseGeneratorConfig:
    """The configuration of a bundle's generator. Raises BundleError if the manifest has none that is valid."""
    try:
        return generator_config(bundle.model)
    except (ValueError, TypeError) as e:
        raise BundleError(f"bundle {bundle.path} describes no network that stylert knows: {shown_line(str(e))}") from None


def model_work(name: str, bundle: Bundle) -> dict[str, Any]:
    """The model's part of `Row.work`. It is equal for two bundles of the same weights."""
    return {"model": name, "weights": _weights_digest(bundle), "resolution": bundle.resolution}


def model_facts(bundle: Bundle) -> dict[str, Any]:
    """The model's entry in `Results.models`: resolution, parameters, multiply-adds per image and digest of the weights."""
    cfg = bundle_config(bundle)
    return {
        "resolution": cfg.resolution,
        "parameters": parameter_count(cfg),
        "macs": cfg.macs(),
        "weights": _weights_digest(bundle),
    }


def _delete_unused(models: Path, name: str) -> None:
    """Delete what no checkout has used for `UNUSED_DAYS`, of one standard model."""
    for path in models.glob(f"{name}-*"):
        with suppress(OSError):  # another process deletes it, too, or it belongs to another user
            if path.stat().st_mtime < time.time() - UNUSED_DAYS * 86400:
                shutil.rmtree(path)


def _cached_bundle(folder: Path, precisions: Sequence[str]) -> Bundle | None:
    """The first undamaged bundle that has all the precisions."""
    for path in sorted(folder.glob(f"*/{MANIFEST}")):
        try:
            bundle = Bundle.load(path.parent)
        except StylertError:
            continue
        if set(precisions) <= set(bundle.precisions):
            return bundle
    return None


def weights_digest(info: Mapping[str, Any], checkpoint_sha256: object) -> str:
    """Digest of the tensors if the facts of a checkpoint state it, or else of the checkpoint's file, as in results."""
    return str(info.get("weights_sha256") or checkpoint_sha256)[:16]


def _weights_digest(bundle: Bundle) -> str:
    info = bundle.provenance.get("info")
    return weights_digest(info if isinstance(info, dict) else {}, bundle.provenance.get("checkpoint_sha256"))


def _sources_digest(root: Path) -> str:
    """A digest of `BUNDLE_SOURCES` below `root`, with their names, and of the versions of `BUNDLE_LIBRARIES`."""
    digest = hashlib.sha256()
    for library in BUNDLE_LIBRARIES:
        digest.update(f"{library} {_version(library)}\n".encode())
    for name in BUNDLE_SOURCES:
        source = root / name
        for file in sorted(source.rglob("*.py")) if source.is_dir() else [source]:
            content = file.read_bytes()
            digest.update(f"{file.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:12]


def _version(library: str) -> str:
    """The version of an installed library. Variants such as onnxruntime-gpu have other names, but the same module."""
    module = onnxruntime.library() if library == "onnxruntime" else importlib.import_module(library)
    return str(module.__version__)
