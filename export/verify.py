"""Verification: images of every precision and backend, compared with those of the checkpoint in PyTorch float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stylert.core.errors import BackendError, InputError, StylertError, as_path, missing_extra, shown
from stylert.core.files.digests import sha256_of
from stylert.core.images.grids import as_uint8
from stylert.core.images.similarity import psnr, ssim
from stylert.core.progress import Progress
from stylert.core.seeds import z_from_seeds
from stylert.export.channel_accuracy import ChannelAccuracy, channel_accuracies
from stylert.export.networks.exporters import exporter_of
from stylert.export.perceptual_accuracy import perceptual_distance
from stylert.models.checkpoint import generator_module
from stylert.models.importers.import_checkpoint import read_any_generator
from stylert.runtime.backends import available_backends, backend
from stylert.runtime.bundle import NO_VNNI, Bundle
from stylert.runtime.engines import check_network_kind
from stylert.runtime.generator import Generator
from stylert.runtime.input_checks import finite_number, whole_number
from stylert.runtime.media.pictures import save_image

BATCH = 8

#: All reference images are in memory at once.
MAX_SEEDS = 65536

#: Name of a picture of the worst images.
WORST_IMAGES = "worst.{precision}.{backend}.png"

#: `Accuracy.off_share` counts values with a greater error, in steps of 1/255.
VISIBLE_ERROR = 2

#: A picture shows so many of the worst seeds, and the error times `AMPLIFICATION`.
WORST_SEEDS, AMPLIFICATION = 4, 8


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of one precision on one backend.

    Errors are in steps of 1/255. `bundle.json` holds these fields by name, so the names stay.

    Attributes:
        backend: The backend's name, or `<backend>-no-vnni` for its network for processors without VNNI.
        precision: The precision's name.
        reference: The origin of the reference images, in words.
        seeds: The number of images.
        psnr_db: Mean over images of 20 log10(255 / rms error), each at most 100.
        worst_psnr_db: The PSNR of the worst image.
        worst_seed: The seed of the worst image.
        max_error: The greatest error of any value.
        mean_error: The mean error of all values.
        min_psnr_db: The PSNR that the bundle promises.
        ssim: Mean over images.
        off_share: The share of values that are off by more than `VISIBLE_ERROR`.
        perceptual: Mean `perceptual_distance`, or None where it has none.
        worst_seeds: The seeds with the least PSNR, worst first.
        channels: Each channel by itself, for images that are neither grey nor RGB pictures. Empty for those.
    """

    backend: str
    precision: str
    reference: str
    seeds: int
    psnr_db: float
    worst_psnr_db: float
    worst_seed: int
    max_error: float
    mean_error: float
    min_psnr_db: float
    ssim: float
    off_share: float
    perceptual: float | None
    worst_seeds: tuple[int, ...]
    channels: tuple[ChannelAccuracy, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the images, and each of their channels, have the PSNR that the bundle promises."""
        return min([self.psnr_db, *(channel.psnr_db for channel in self.channels)]) >= self.min_psnr_db

    @property
    def shortfall(self) -> str:
        """The least PSNR beside the promised one, in words."""
        worst = min(self.channels, key=lambda channel: channel.psnr_db, default=None)
        if worst is None or self.psnr_db < self.min_psnr_db:
            return f"{self.psnr_db:.2f} of {self.min_psnr_db:g} dB"
        return f"channel {worst.name}: {worst.psnr_db:.2f} of {self.min_psnr_db:g} dB"


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
    """Compare images of the seeds from 0, with class labels in turn, for each precision on each backend.

    Args:
        bundle: The bundle.
        against: The checkpoint that the bundle was exported from. The reference is then PyTorch. Without it the
            reference is the bundle's own float32 network on ONNX Runtime, which is then not verified itself.
        backends: The backends to verify, by default all that run here.
        precisions: The precisions to verify, by default all of the bundle.
        seeds: The number of images.
        psi: The truncation.
        progress: Called after each batch.
        pictures: A folder for the worst images of each comparison, as `worst.<precision>.<backend>.png`. A row shows
            reference, image and amplified difference. Images that are neither grey nor RGB are shown as their channels, in grey.

    Raises:
        InputError: `against` is another checkpoint, a backend is unknown, or the bundle lacks a precision.
        BackendError: A backend does not run here or not this network, or PyTorch is needed and not installed.
    """
    if not isinstance(bundle, Bundle):
        raise InputError(f"a bundle is a Bundle, as Bundle.load returns it, not {shown(bundle)}")
    seeds = whole_number(seeds, "the number of seeds", 1, MAX_SEEDS)
    psi = finite_number(psi, "psi")
    for kind, names in (("backends", backends), ("precisions", precisions)):
        if names is not None and (not isinstance(names, Sequence) or isinstance(names, str | bytes)):
            raise InputError(f"{kind} are a list of names, not {shown(names)}")
    against = None if against is None else as_path(against, "checkpoint")
    pictures = None if pictures is None else as_path(pictures, "folder")
    for name in backends or []:
        if (reason := backend(name).unavailable_reason()) is not None:
            raise BackendError(reason)
        check_network_kind(backend(name), bundle)
    backends = list(backends or available_backends())
    precisions = list(precisions or bundle.precisions)
    for precision in precisions:
        bundle.precision(precision)
    batches = [_inputs(bundle, range(i, min(i + BATCH, seeds)), psi) for i in range(0, seeds, BATCH)]
    if against is not None:
        check_same_checkpoint(bundle, Path(against))
        reference_name = "PyTorch float32"
        reference = _torch_images(bundle, Path(against), batches, progress)
    else:
        bundle.precision("fp32")
        reference_name = "synthesis.fp32.onnx on ONNX Runtime"
        reference = _backend_images(bundle, "onnxruntime", "fp32", batches, progress)
    rows = []
    for name in backends:
        facts = backend(name).facts
        for precision in precisions:
            is_reference = against is None and (name, precision) == ("onnxruntime", "fp32")
            if is_reference or not facts.runs(bundle.kind, precision):
                continue
            for plan_name, with_plan in _plans_of(bundle, name, precision):
                images = _backend_images(with_plan, name, precision, batches, progress)
                row = _compare(plan_name, precision, reference_name, images, reference, bundle)
                if pictures is not None:
                    file = pictures / WORST_IMAGES.format(precision=precision, backend=plan_name)
                    save_image(_side_by_side(images, reference, row.worst_seeds), file, generated=True)
                rows.append(row)
    return rows


def _plans_of(bundle: Bundle, backend_name: str, precision: str) -> list[tuple[str, Bundle]]:
    """The networks of a backend, for this and for other processors: the name of each, and the bundle with this one alone.

    All of them can be verified here, since their arithmetic is exact on every processor.
    """
    entry, without_vnni = bundle.precision(precision), f"{backend_name}{NO_VNNI}"
    if without_vnni not in entry.plans:
        return [(backend_name, bundle)]
    others = {name: file for name, file in entry.plans.items() if name not in (backend_name, without_vnni)}
    plans = {backend_name: entry.plans.get(backend_name, entry.file), without_vnni: entry.plans[without_vnni]}
    return [
        (name, replace(bundle, precisions={precision: replace(entry, plans=others | {backend_name: file})}))
        for name, file in plans.items()
    ]


def accuracy_entry(rows: Sequence[Accuracy], precision: str) -> dict[str, Any]:
    """The accuracy of one precision for `bundle.json`, by backend."""
    named_elsewhere = ("backend", "precision", "min_psnr_db")
    return {
        row.backend: {
            key: value for key, value in asdict(row).items() if key not in named_elsewhere and (key, value) != ("channels", ())
        }
        for row in rows
        if row.precision == precision
    }


def check_same_checkpoint(bundle: Bundle, checkpoint: Path) -> None:
    """Raise InputError unless `checkpoint` is the file that the bundle was exported from."""
    if sha256_of(checkpoint, InputError, "checkpoint") != bundle.provenance.get("checkpoint_sha256"):
        raise InputError(
            f"{checkpoint} is not the checkpoint that {bundle.path} was exported from ({bundle.provenance.get('checkpoint')})"
        )


class PsnrMissed(StylertError):
    """A network missed the PSNR that a bundle promises.

    Attributes:
        rows: What missed it.
        bundle: The bundle without these precisions, or None if nothing was written.
    """

    def __init__(self, rows: Sequence[Accuracy], bundle: Bundle | None) -> None:
        networks = ", ".join(f"{r.precision} on {r.backend} ({r.shortfall})" for r in rows)
        written = "nothing was written" if bundle is None else f"{bundle.path} holds {', '.join(bundle.precisions)} alone"
        super().__init__(f"the images of {networks} miss the promised PSNR; {written}")
        self.rows, self.bundle = list(rows), bundle


@dataclass(frozen=True)
class _Inputs:
    """The inputs of one batch."""

    z: np.ndarray  # [N, z_dim]
    labels: np.ndarray | None  # [N]
    psi: float
    noise: dict[str, np.ndarray]  # [N, 1, H, W] by name, for bundles with noise inputs


def _inputs(bundle: Bundle, seeds: range, psi: float) -> _Inputs:
    c_dim = bundle.model["c_dim"]
    rng = np.random.default_rng(seeds.start)
    noise = {name: rng.standard_normal((len(seeds), 1, *size), np.float32) for name, size in bundle.noise_sizes.items()}
    labels = np.array([seed % c_dim for seed in seeds]) if c_dim else None
    return _Inputs(z_from_seeds(seeds, bundle.model["z_dim"]), labels, psi, noise)


def _backend_images(
    bundle: Bundle, backend_name: str, precision: str, batches: list[_Inputs], progress: Progress | None
) -> np.ndarray:
    """Images on the 0 to 255 scale: uint8 `[N, H, W, C]`, or float `[N, C, H, W]` from a bundle with float output."""
    with Generator.load(bundle, backend_name, precision) as generator:

        def images() -> Iterator[np.ndarray]:
            for batch in batches:
                ws = generator.map(batch.z, psi=batch.psi, labels=batch.labels)
                yield _as_255(bundle, generator.synthesize(ws, batch.noise))

        return _concatenate(images(), f"verify {backend_name} {precision}", len(batches), progress)


def _torch_images(bundle: Bundle, checkpoint: Path, batches: list[_Inputs], progress: Progress | None) -> np.ndarray:
    """As `_backend_images`, by the PyTorch network of the checkpoint in float32."""
    try:
        import torch
    except ImportError:
        raise missing_extra("PyTorch", "train") from None
    weights = read_any_generator(checkpoint)
    generator, torch_images = generator_module(weights), exporter_of(weights.config).torch_images

    def images() -> Iterator[np.ndarray]:
        for batch in batches:
            c = None if batch.labels is None else torch.eye(bundle.model["c_dim"])[torch.from_numpy(batch.labels)]
            with torch.no_grad():
                y = torch_images(generator, torch.from_numpy(batch.z), c, batch.psi, bundle.noise, batch.noise).numpy()
            yield _as_255(bundle, as_uint8(y) if bundle.output == "uint8" else y)

    return _concatenate(images(), "verify reference", len(batches), progress)


def _concatenate(batches: Iterator[np.ndarray], stage: str, total: int, progress: Progress | None) -> np.ndarray:
    images = []
    for i, batch in enumerate(batches):
        images.append(batch)
        if progress is not None:
            progress(stage, i + 1, total)
    return np.concatenate(images)


def _as_255(bundle: Bundle, images: np.ndarray) -> np.ndarray:
    if bundle.output == "uint8":
        return images
    values = images * 127.5 + 127.5
    return values if bundle.channels else np.clip(values, 0, 255)  # a measured value may lie beyond the range of the data


def _compare(
    backend_name: str, precision: str, reference_name: str, images: np.ndarray, reference: np.ndarray, bundle: Bundle
) -> Accuracy:
    pairs = list(zip(images, reference, strict=True))
    min_psnr_db = bundle.precision(precision).min_psnr_db
    psnrs = [psnr(a, b) for a, b in pairs]
    worst_first = [int(i) for i in np.argsort(psnrs, kind="stable")]
    max_error = sum_of_errors = 0.0
    visible = 0
    for image, reference_image in pairs:
        error = np.abs(image.astype(np.float64) - reference_image)
        max_error = max(max_error, float(error.max()))
        sum_of_errors += float(error.sum())
        visible += int((error > VISIBLE_ERROR).sum())
    pairs = [(_channels_last(a), _channels_last(b)) for a, b in pairs]
    return Accuracy(
        backend=backend_name,
        precision=precision,
        reference=reference_name,
        seeds=len(pairs),
        psnr_db=round(float(np.mean(psnrs)), 2),
        worst_psnr_db=round(psnrs[worst_first[0]], 2),
        worst_seed=worst_first[0],
        max_error=round(max_error, 3),
        mean_error=round(sum_of_errors / images.size, 5),
        min_psnr_db=min_psnr_db,
        ssim=round(float(np.mean([ssim(a, b) for a, b in pairs])), 5),
        off_share=round(visible / images.size, 6),
        perceptual=perceptual_distance([a for a, _ in pairs], [b for _, b in pairs]),
        worst_seeds=tuple(worst_first[:WORST_SEEDS]),
        channels=channel_accuracies(pairs, bundle.channels, min_psnr_db),
    )


def _channels_last(image: np.ndarray) -> np.ndarray:
    """uint8 images are channels last already, float images are `[C, H, W]`."""
    return image if image.dtype == np.uint8 else np.moveaxis(image, 0, 2)


def _side_by_side(images: np.ndarray, reference: np.ndarray, seeds: Sequence[int]) -> np.ndarray:
    """uint8 `[H, W, 1 or 3]`, a row per seed: the reference, the image, and the magnitude of their difference, amplified."""
    rows = []
    for seed in seeds:
        image, reference_image = _channels_last(images[seed]), _channels_last(reference[seed])
        difference = np.abs(image.astype(np.float64) - reference_image) * AMPLIFICATION
        columns = [np.clip(np.rint(np.nan_to_num(x)), 0, 255).astype(np.uint8) for x in (reference_image, image, difference)]
        rows.append(np.concatenate([_grey_or_rgb(x) for x in columns], axis=1))
    return np.concatenate(rows)


def _grey_or_rgb(image: np.ndarray) -> np.ndarray:
    """An image `[H, W, C]` that a picture can hold. Another number of channels than 1 or 3 becomes grey channels in a row."""
    channels = image.shape[2]
    return image if channels in (1, 3) else np.concatenate(np.split(image, channels, axis=2), axis=1)
