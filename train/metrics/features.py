"""Features of real and of generated images, in portions; those of real images are kept between runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from stylert.core.atomic import atomic_file
from stylert.core.images import as_uint8
from stylert.core.seeds import z_from_seeds
from stylert.models.features.extractors import Extractor
from stylert.models.stylegan2.networks import Generator
from stylert.train.data.dataset import ImageDataset

#: Raised when features would come out different for the same pixels.
CACHE_VERSION = 2
BATCH = 50
#: Apart from the seeds that people look at.
FIRST_SEED = 2_000_000_000

Progress = Callable[[int, int], None]


def real_features(
    extractor: Extractor, dataset: ImageDataset, count: int, progress: Progress | None = None, cache: Path | None = None
) -> np.ndarray:
    """Features `[min(count, M), width]` of the first images of a dataset of M.

    With a folder `cache`, they are kept there under the hash of the pixels, and read back instead of computed again.
    """
    count = min(count, len(dataset))

    def images(start: int, n: int) -> np.ndarray:
        return dataset.images[start : start + n].transpose(0, 2, 3, 1)

    if cache is None:
        return _in_portions(extractor, images, count, progress)
    pixels = hashlib.sha256(f"{CACHE_VERSION} {extractor.identity} {(count, *dataset.images.shape[1:])}".encode())
    for i in range(0, count, BATCH):  # in portions, because what is not in memory is decoded for it
        pixels.update(np.ascontiguousarray(dataset.images[i : min(i + BATCH, count)]).data)
    file = cache / f"{pixels.hexdigest()}.safetensors"
    kept = _read_cache(file, (count, extractor.width))
    if kept is not None:
        return kept
    features = _in_portions(extractor, images, count, progress)
    with atomic_file(file) as temporary:
        save_file({"features": features}, str(temporary))
    return features


def generated_features(
    extractor: Extractor, generator: Generator, count: int, progress: Progress | None = None, first: int = 0
) -> np.ndarray:
    """Features `[count, width]` of a generator's images from number `first` on."""
    return _in_portions(extractor, lambda i, n: generated_images(generator, first + i, n), count, progress)


@torch.no_grad()
def generated_images(generator: Generator, start: int, count: int) -> np.ndarray:
    """Images number `start` and on, uint8 `[count, R, R, C]`, without truncation, of consecutive seeds, labels in turn."""
    device = next(generator.parameters()).device
    z = torch.from_numpy(generated_z(start, count, generator.cfg.z_dim)).to(device)
    images = generator(z, labels_in_turn(generator, start, count), noise_mode="const")
    return as_uint8(images.float().cpu().numpy())


def generated_z(start: int, count: int, z_dim: int) -> np.ndarray:
    """The latents of `generated_images`, float32 `[count, z_dim]`."""
    return z_from_seeds(range(FIRST_SEED + start, FIRST_SEED + start + count), z_dim)


def labels_in_turn(generator: Generator, start: int, count: int) -> torch.Tensor | None:
    """One-hot labels `[count, c_dim]` of images number `start` and on, or None for a network without labels."""
    c_dim, device = generator.cfg.c_dim, next(generator.parameters()).device
    return torch.eye(c_dim, device=device)[torch.arange(start, start + count) % c_dim] if c_dim else None


def _read_cache(file: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """What an earlier run kept, unless it is missing or damaged."""
    try:
        features = load_file(str(file))["features"]
    except (OSError, KeyError, SafetensorError):
        return None
    usable = features.shape == shape and features.dtype == np.float64 and np.isfinite(features).all()
    return features if usable else None


def _in_portions(
    extractor: Extractor, images: Callable[[int, int], np.ndarray], count: int, progress: Progress | None
) -> np.ndarray:
    out = np.empty((count, extractor.width))
    for i in range(0, count, BATCH):
        n = min(BATCH, count - i)
        out[i : i + n] = extractor(images(i, n))
        if progress is not None:
            progress(i + n, count)
    return out
