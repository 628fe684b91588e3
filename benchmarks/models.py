"""The models that a benchmark measures: a user's bundle, or a standard model with its bundle in the cache folder."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylert.benchmarks.standard import NAMES, write_standard
from stylert.core.cache import cache_folder
from stylert.core.errors import InputError, StylertError
from stylert.core.progress import Progress
from stylert.models.stylegan2.config import GeneratorConfig
from stylert.models.stylegan2.state_dict import generator_shapes
from stylert.runtime.bundle import Bundle

#: Precisions of a standard model if none are given.
STANDARD_PRECISIONS = ("fp32", "bf16", "int8")

#: The sources that decide the bytes of a standard model's bundle. A change in one of them makes the cached bundles stale.
#: The weights come from `standard.py`, and their names and shapes from `models`. The graphs and scales come from `export` and
#: `plugins`, the manifest from `runtime/bundle.py`. The seeds give the calibration latents, and image similarity decides
#: which layers stay out of 8 bits. Not listed: backends and sessions, which run a bundle and do not shape it; importers,
#: because the checkpoint is in our own format; files and errors.
BUNDLE_SOURCES = (
    "benchmarks/standard.py",
    "core/image_similarity.py",
    "core/seeds.py",
    "export",
    "models/checkpoint.py",
    "models/stylegan2",
    "plugins",
    "runtime/bundle.py",
)


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
    return Model(Path(str(bundle.provenance.get("checkpoint", path.name))).stem, bundle)


def standard_model(name: str, precisions: Sequence[str], progress: Progress | None = None, cache: Path | None = None) -> Model:
    """A standard model with at least these precisions, from the cache or exported now.

    The larger models take minutes to export. Cached bundles of this model that older sources made are deleted.

    Args:
        name: `sg2-256`, `sg2-512` or `sg2-1024`.
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
    folder = (cache or cache_folder()) / "models"
    checkpoint = folder / f"{name}.safetensors"
    prefix = f"{name}-{_sources_digest()}-"
    _delete_stale_bundles(folder, name, prefix)
    cached = _cached_bundle(folder, prefix, precisions)
    if cached is not None:
        return Model(name, cached, checkpoint if checkpoint.is_file() else None)
    folder.mkdir(parents=True, exist_ok=True)
    if progress is not None:
        progress(f"make {name}", 0, 1)
    write_standard(name, checkpoint)
    out = folder / f"{prefix}{'-'.join(sorted(precisions))}"
    bundle = export_bundle(checkpoint, out, list(precisions), force=True, progress=progress)
    if progress is not None:
        progress(f"make {name}", 1, 1)
    return Model(name, bundle, checkpoint)


def model_work(name: str, bundle: Bundle) -> dict[str, Any]:
    """The model's part of `Row.work`. It is equal for two bundles of the same weights."""
    return {"model": name, "weights": _weights_digest(bundle), "resolution": bundle.resolution}


def model_facts(bundle: Bundle) -> dict[str, Any]:
    """The model's entry in `Results.models`: resolution, parameters, multiply-adds per image and digest of the weights."""
    cfg = GeneratorConfig.from_dict(bundle.model)
    buffers = ("noise_const", "resample_filter", "w_avg")
    parameters = sum(math.prod(shape) for key, shape in generator_shapes(cfg).items() if not key.endswith(buffers))
    return {"resolution": cfg.resolution, "parameters": parameters, "macs": cfg.macs(), "weights": _weights_digest(bundle)}


def _delete_stale_bundles(folder: Path, name: str, prefix: str) -> None:
    for path in folder.glob(f"{name}-*-*"):
        if not path.name.startswith(prefix):
            shutil.rmtree(path, ignore_errors=True)


def _cached_bundle(folder: Path, prefix: str, precisions: Sequence[str]) -> Bundle | None:
    """The first undamaged bundle that has all the precisions."""
    for path in sorted(folder.glob(f"{prefix}*")):
        try:
            bundle = Bundle.load(path)
        except StylertError:
            continue
        if set(precisions) <= set(bundle.precisions):
            return bundle
    return None


def _weights_digest(bundle: Bundle) -> str:
    """Digest of the tensors if the checkpoint states it, or else of the checkpoint's file."""
    info = bundle.provenance.get("info")
    tensors = info.get("weights_sha256") if isinstance(info, dict) else None
    return str(tensors or bundle.provenance.get("checkpoint_sha256"))[:16]


def _sources_digest() -> str:
    root, digest = Path(__file__).resolve().parent.parent, hashlib.sha256()
    for name in BUNDLE_SOURCES:
        source = root / name
        for file in sorted(source.rglob("*.py")) if source.is_dir() else [source]:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
