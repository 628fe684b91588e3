"""Verification: the images of every precision and backend against the checkpoint's own, made by PyTorch in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stylert.core.errors import InputError, missing_extra
from stylert.core.image_similarity import psnr, ssim
from stylert.core.images import as_uint8
from stylert.core.seeds import z_from_seeds
from stylert.export.perceptual import perceptual_distance
from stylert.models.checkpoint import generator_module
from stylert.models.importers.imported import read_any_generator
from stylert.runtime.backends import available_backends, backend
from stylert.runtime.bundle import Bundle, sha256_of
from stylert.runtime.generator import Generator
from stylert.runtime.media.pictures import save_image

CHUNK = 8
#: An error above this many steps of 1/255 counts as seen.
OFF_BY = 2
#: As many of the worst seeds are shown side by side, with the error times this.
SHOWN, AMPLIFIED = 4, 8

#: `(stage, done, total)`
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Accuracy:
    """How far one backend's images at one precision are from the reference. Errors are in steps of 1/255."""

    backend: str
    precision: str
    reference: str
    seeds: int
    psnr_db: float  # mean over images of 20 log10(255 / rms error), each at most 100
    worst_psnr_db: float
    worst_seed: int
    max_error: float
    mean_error: float
    min_psnr_db: float
    ssim: float  # mean over images
    off_share: float  # of all values, off by more than `OFF_BY`
    perceptual: float | None  # mean distance in the features of EfficientNet-Lite0; None without the `metrics` extra
    worst_seeds: tuple[int, ...]  # the worst first

    @property
    def passed(self) -> bool:
        return self.psnr_db >= self.min_psnr_db


def verify(
    bundle: Bundle,
    against: str | Path | None = None,
    backends: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    seeds: int = 32,
    psi: float = 1.0,
    progress: Progress | None = None,
    pictures: Path | None = None,
) -> list[Accuracy]:
    """Compare images of seeds 0 to `seeds`, class labels cycling, for each precision on each installed backend.

    `against` is the checkpoint that the bundle was made from; the reference is then PyTorch's float32 forward pass,
    which needs torch. Without it the reference is the bundle's own float32 network on ONNX Runtime, which says nothing
    about that network itself: rows comparing it with itself are left out.

    With a folder `pictures`, the worst seeds of every row are drawn there as `worst.<precision>.<backend>.png`: reference, image,
    and their difference, amplified.

    Raises InputError when `against` is not the checkpoint that the bundle was exported from.
    """
    if seeds < 1:
        raise InputError("verify needs at least one seed")
    backends = list(backends or available_backends())
    precisions = list(precisions or bundle.precisions)
    for precision in precisions:
        bundle.precision(precision)
    if against is not None:
        check_same_checkpoint(bundle, Path(against))
        reference_name = "PyTorch float32"
    else:
        reference_name = "synthesis.fp32.onnx on ONNX Runtime"
        bundle.precision("fp32")
    inputs = [_inputs(bundle, range(i, min(i + CHUNK, seeds)), psi) for i in range(0, seeds, CHUNK)]
    reference = (
        _torch_images(bundle, Path(against), inputs, progress)
        if against
        else _images(bundle, "onnxruntime", "fp32", inputs, progress)
    )
    rows = []
    for name in backends:
        for precision in precisions:
            if precision not in backend(name).PRECISIONS or (against is None and (name, precision) == ("onnxruntime", "fp32")):
                continue
            images = _images(bundle, name, precision, inputs, progress)
            row = _compare(name, precision, reference_name, images, reference, bundle.precision(precision).min_psnr_db)
            if pictures is not None:
                save_image(_side_by_side(images, reference, row.worst_seeds), pictures / f"worst.{precision}.{name}.png")
            rows.append(row)
    return rows


def accuracy_entry(rows: Sequence[Accuracy], precision: str) -> dict[str, Any]:
    """What a bundle's manifest keeps of the rows of one precision, by backend."""
    return {
        row.backend: {k: v for k, v in asdict(row).items() if k not in ("backend", "precision", "min_psnr_db")}
        for row in rows
        if row.precision == precision
    }


def check_same_checkpoint(bundle: Bundle, checkpoint: Path) -> None:
    """InputError unless `checkpoint` is the file that the bundle was exported from."""
    if not checkpoint.is_file():
        raise InputError(f"checkpoint {checkpoint} does not exist")
    if sha256_of(checkpoint) != bundle.provenance.get("checkpoint_sha256"):
        raise InputError(
            f"{checkpoint} is not the checkpoint that {bundle.path} was exported from ({bundle.provenance.get('checkpoint')})"
        )


@dataclass(frozen=True)
class _Inputs:
    z: np.ndarray
    labels: np.ndarray | None
    psi: float
    noise: dict[str, np.ndarray]


def _inputs(bundle: Bundle, seeds: range, psi: float) -> _Inputs:
    c_dim = bundle.model["c_dim"]
    rng = np.random.default_rng(seeds.start)
    noise = {n: rng.standard_normal((len(seeds), 1, r, r), np.float32) for n, r in bundle.noise_inputs.items()}
    labels = np.array([s % c_dim for s in seeds]) if c_dim else None
    return _Inputs(z_from_seeds(seeds, bundle.model["z_dim"]), labels, psi, noise)


def _images(bundle: Bundle, backend_name: str, precision: str, inputs: list[_Inputs], progress: Progress | None) -> np.ndarray:
    stage, images = f"verify {backend_name} {precision}", []
    with Generator.load(bundle, backend_name, precision) as generator:
        for i, batch in enumerate(inputs):
            ws = generator.map(batch.z, psi=batch.psi, labels=batch.labels)
            images.append(_as_255(bundle, generator.synthesize(ws, batch.noise)))
            if progress is not None:
                progress(stage, i + 1, len(inputs))
    return np.concatenate(images)


def _torch_images(bundle: Bundle, checkpoint: Path, inputs: list[_Inputs], progress: Progress | None) -> np.ndarray:
    try:
        import torch
    except ImportError:
        raise missing_extra("PyTorch", "train") from None
    generator = generator_module(read_any_generator(checkpoint))
    images = []
    for i, batch in enumerate(inputs):
        for name, value in batch.noise.items():
            _, resolution, layer = name.split("_")
            getattr(getattr(generator.synthesis, f"b{resolution}"), layer).noise_const = torch.from_numpy(value)
        c = None if batch.labels is None else torch.eye(bundle.model["c_dim"])[torch.from_numpy(batch.labels)]
        with torch.no_grad():
            y = generator(torch.from_numpy(batch.z), c, batch.psi, noise_mode="none" if bundle.noise == "none" else "const")
        y = y.numpy()
        if bundle.output == "uint8":
            y = as_uint8(y)
        images.append(_as_255(bundle, y))
        if progress is not None:
            progress("verify reference", i + 1, len(inputs))
    return np.concatenate(images)


def _as_255(bundle: Bundle, images: np.ndarray) -> np.ndarray:
    return images if bundle.output == "uint8" else np.clip(images * 127.5 + 127.5, 0, 255)


def _compare(
    backend_name: str, precision: str, reference_name: str, images: np.ndarray, reference: np.ndarray, threshold: float
) -> Accuracy:
    pairs = list(zip(images, reference, strict=True))
    each = [psnr(a, b) for a, b in pairs]
    order = np.argsort(each, kind="stable")
    greatest, total, off = 0.0, 0.0, 0
    for a, b in pairs:
        error = np.abs(a.astype(np.float64) - b)
        greatest, total, off = max(greatest, float(error.max())), total + float(error.sum()), off + int((error > OFF_BY).sum())
    if images.dtype != np.uint8:
        pairs = [(np.moveaxis(a, 0, 2), np.moveaxis(b, 0, 2)) for a, b in pairs]
    return Accuracy(
        backend_name,
        precision,
        reference_name,
        len(each),
        round(float(np.mean(each)), 2),
        round(each[order[0]], 2),
        int(order[0]),
        round(greatest, 3),
        round(total / images.size, 5),
        threshold,
        round(float(np.mean([ssim(a, b) for a, b in pairs])), 5),
        round(off / images.size, 6),
        perceptual_distance([a for a, _ in pairs], [b for _, b in pairs]),
        tuple(int(i) for i in order[:SHOWN]),
    )


def _side_by_side(images: np.ndarray, reference: np.ndarray, seeds: Sequence[int]) -> np.ndarray:
    """A row per seed: the reference, the image, and the magnitude of their difference times `AMPLIFIED`; uint8 `[H, W, C]`."""
    rows = []
    for seed in seeds:
        a, b = (x[seed] if x.dtype == np.uint8 else np.moveaxis(x[seed], 0, 2) for x in (images, reference))
        difference = np.abs(a.astype(np.float64) - b) * AMPLIFIED
        rows.append(np.concatenate([np.clip(np.rint(x), 0, 255).astype(np.uint8) for x in (b, a, difference)], axis=1))
    return np.concatenate(rows)
