"""Features of real and of generated images, computed in batches. Those of real images can be cached on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from stylert.core.errors import OutputError
from stylert.core.files.safetensors_files import safetensors_file
from stylert.core.progress import Progress
from stylert.models.features.extractors import Extractor
from stylert.models.stylegan2.generator import NoiseMode
from stylert.models.stylegan2.networks import Generator
from stylert.train.data.dataset import ImageDataset
from stylert.train.sampling import generate

#: Part of the cache key. Increase it when a change of the code changes the features of the same pixels.
CACHE_VERSION = 2
BATCH = 50
#: Seed of the first generated image, far from the seeds that people look at.
FIRST_SEED = 2_000_000_000


def real_features(
    extractor: Extractor,
    dataset: ImageDataset,
    count: int,
    progress: Progress | None = None,
    cache: Path | None = None,
    stage: str = "real images",
) -> np.ndarray:
    """Features of the first images of a dataset.

    Args:
        extractor: The feature network.
        dataset: M images.
        count: Number of images.
        progress: Called after each batch with `stage`.
        cache: Folder of cached features. The file name is the hash of the extractor and the pixels.
        stage: Name for `progress`.

    Returns:
        float64 `[min(count, M), width]`.
    """
    count = min(count, len(dataset))

    def images(start: int, n: int) -> np.ndarray:
        return dataset.images[start : start + n].transpose(0, 2, 3, 1)

    if cache is None:
        return _compute(extractor, images, count, progress, stage)
    file = cache / f"{_cache_key(extractor, dataset, count)}.safetensors"
    cached = _read_cache(file, (count, extractor.width))
    if cached is not None:
        return cached
    features = _compute(extractor, images, count, progress, stage)
    # A cache that cannot be written costs only the time of the next call.
    with suppress(OutputError), safetensors_file(file) as temporary:
        save_file({"features": features}, str(temporary))
    return features


def generated_features(
    extractor: Extractor,
    generator: Generator,
    count: int,
    progress: Progress | None = None,
    first: int = 0,
    labels: np.ndarray | None = None,
    noise_mode: NoiseMode = "const",
) -> np.ndarray:
    """Features float64 `[count, width]` of the generated images number `first` and on. See `generated_images`."""

    def images(start: int, n: int) -> np.ndarray:
        return generated_images(generator, first + start, n, labels, noise_mode)

    return _compute(extractor, images, count, progress, "generated images")


def generated_images(
    generator: Generator, start: int, count: int, labels: np.ndarray | None = None, noise_mode: NoiseMode = "const"
) -> np.ndarray:
    """The images number `start` and on of the series that metrics use, without truncation. See `sampling.generate`.

    Returns:
        uint8 `[count, R, R, C]`.
    """
    return generate(generator, seeds_of_images(start, count), labels=labels, noise_mode=noise_mode)


def seeds_of_images(start: int, count: int) -> range:
    """The seeds of `generated_images`."""
    return range(FIRST_SEED + start, FIRST_SEED + start + count)


def _compute(
    extractor: Extractor, images: Callable[[int, int], np.ndarray], count: int, progress: Progress | None, stage: str
) -> np.ndarray:
    """Features of `count` images; `images(start, n)` returns uint8 `[n, H, W, C]`."""
    features = np.empty((count, extractor.width))
    for start in range(0, count, BATCH):
        n = min(BATCH, count - start)
        features[start : start + n] = extractor(images(start, n))
        if progress is not None:
            progress(stage, start + n, count)
    return features


def _cache_key(extractor: Extractor, dataset: ImageDataset, count: int) -> str:
    digest = hashlib.sha256(f"{CACHE_VERSION} {extractor.identity} {(count, *dataset.images.shape[1:])}".encode())
    # In batches, because a large dataset is decoded for this.
    for start in range(0, count, BATCH):
        digest.update(np.ascontiguousarray(dataset.images[start : min(start + BATCH, count)]).data)
    return digest.hexdigest()


def _read_cache(file: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """The cached features, or None where the file is missing or damaged."""
    try:
        features = load_file(str(file))["features"]
    except (OSError, KeyError, SafetensorError):
        return None
    usable = features.shape == shape and features.dtype == np.float64 and np.isfinite(features).all()
    return features if usable else None
