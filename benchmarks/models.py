"""What is benchmarked: a bundle of the user's, or a standard model whose bundle is made once and kept in the cache."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylert.benchmarks.standard import NAMES, write_standard
from stylert.core.cache import cache_folder
from stylert.core.errors import InputError, StylertError
from stylert.models.checkpoint import generator_shapes
from stylert.models.stylegan2.config import GeneratorConfig
from stylert.runtime.bundle import Bundle

#: Folders beside this one whose code decides what a standard model's bundle holds.
MAKERS = ("export", "plugins", "benchmarks/standard.py", "models/stylegan2/config.py")

#: What a standard model is measured in where nothing is said.
STANDARD_PRECISIONS = ("fp32", "bf16", "int8")

#: `(stage, done, total)`
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Model:
    """A bundle under the name that rows give it; `checkpoint` is what it was exported from, where that is at hand."""

    name: str
    bundle: Bundle
    checkpoint: Path | None = None


def standard_model(name: str, precisions: Sequence[str], progress: Progress | None = None, cache: Path | None = None) -> Model:
    """A standard model's bundle with at least these precisions, from the cache or exported now (minutes for the larger ones).

    The cache folder's name holds a digest of the code that makes bundles, so that no measurement is of an older form.
    Raises InputError for an unknown name or precision, and OutputError where the cache cannot be written.
    """
    from stylert.export.pipeline import MIN_PSNR_DB, export_bundle

    if name not in NAMES:
        raise InputError(f"unknown standard model {name!r}: choose from {', '.join(NAMES)}")
    for precision in precisions:
        if precision not in MIN_PSNR_DB:
            raise InputError(f"unknown precision {precision!r}: choose from {', '.join(MIN_PSNR_DB)}")
    models, made_by = (cache or cache_folder()) / "models", _makers_digest()
    checkpoint = models / f"{name}.safetensors"
    for folder in sorted(models.glob(f"{name}-*-*")):
        if not folder.name.startswith(f"{name}-{made_by}-"):
            shutil.rmtree(folder, ignore_errors=True)
            continue
        try:
            bundle = Bundle.load(folder)
        except StylertError:
            continue  # damaged: made anew
        if set(precisions) <= set(bundle.precisions):
            return Model(name, bundle, checkpoint if checkpoint.is_file() else None)
    folder = models / f"{name}-{made_by}-{'-'.join(sorted(precisions))}"
    models.mkdir(parents=True, exist_ok=True)
    if progress is not None:
        progress(f"make {name}", 0, 1)
    write_standard(name, checkpoint)
    bundle = export_bundle(checkpoint, folder, list(precisions), force=True, progress=progress)
    if progress is not None:
        progress(f"make {name}", 1, 1)
    return Model(name, bundle, checkpoint)


def own_model(path: Path) -> Model:
    """A bundle of the user's. Raises as `Bundle.load`."""
    bundle = Bundle.load(path)
    return Model(Path(str(bundle.provenance.get("checkpoint", path.name))).stem, bundle)


def work_of(name: str, bundle: Bundle) -> dict[str, Any]:
    """What a row of this model computes, but for its precision and batch: two bundles of the same weights do the same."""
    return {"model": name, "weights": _weights(bundle), "resolution": bundle.resolution}


def model_facts(bundle: Bundle) -> dict[str, Any]:
    cfg = GeneratorConfig.from_dict(bundle.model)
    buffers = ("noise_const", "resample_filter", "w_avg")
    parameters = sum(math.prod(shape) for key, shape in generator_shapes(cfg).items() if not key.endswith(buffers))
    return {"resolution": cfg.resolution, "parameters": parameters, "macs": cfg.macs(), "weights": _weights(bundle)}


def _weights(bundle: Bundle) -> str:
    """Digest of the tensors where the checkpoint says it, else of the checkpoint's file."""
    info = bundle.provenance.get("info")
    found = info.get("weights_sha256") if isinstance(info, dict) else None
    return str(found or bundle.provenance.get("checkpoint_sha256"))[:16]


def _makers_digest() -> str:
    """Of the source of everything that decides what an export holds."""
    root, digest = Path(__file__).resolve().parent.parent, hashlib.sha256()
    for name in MAKERS:
        place = root / name
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
