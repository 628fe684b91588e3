"""Images of a generator by seed, for sample grids and for metrics.

The seed of an image decides its latent z. With labels, it also decides the label: a random row of a table of labels,
such as those of the training images. So generated images have the labels of the data, as often as there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stylert.core.images.grids import as_uint8
from stylert.core.seeds import z_from_seeds
from stylert.models.stylegan2.generator import NoiseMode
from stylert.models.stylegan2.networks import Generator

BATCH = 16
#: Second word of the seed that draws a label.
LABEL_STREAM = 1


def sample_images(generator: Generator, count: int, psi: float = 1.0, labels: np.ndarray | None = None) -> np.ndarray:
    """Images of the seeds 0 to `count - 1`, in batches, with constant noise.

    Args:
        generator: The generator, on any device.
        count: Number of images.
        psi: Truncation; 1 is none.
        labels: As in `labels_of_seeds`.

    Returns:
        uint8 `[count, R, R, C]`.
    """
    batches = []
    for start in range(0, count, BATCH):
        seeds = range(start, min(start + BATCH, count))
        batches.append(generate(generator, seeds, psi, labels))
    return np.concatenate(batches)


@torch.no_grad()
def generate(
    generator: Generator,
    seeds: Sequence[int],
    psi: float = 1.0,
    labels: np.ndarray | None = None,
    noise_mode: NoiseMode = "const",
) -> np.ndarray:
    """Images of some seeds, in one batch.

    Args:
        generator: The generator, on any device.
        seeds: The seeds.
        psi: Truncation; 1 is none.
        labels: As in `labels_of_seeds`.
        noise_mode: Noise of the layers. Random noise is seeded by the first seed, and PyTorch's own random state stays.

    Returns:
        uint8 `[N, R, R, C]`.
    """
    device = next(generator.parameters()).device
    z = torch.from_numpy(z_from_seeds(seeds, generator.cfg.z_dim)).to(device)
    c = labels_of_seeds(generator, seeds, labels)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seeds[0])
        images = generator(z, c, psi, noise_mode=noise_mode)
    return as_uint8(images.float().cpu().numpy())


def labels_of_seeds(generator: Generator, seeds: Sequence[int], labels: np.ndarray | None = None) -> Tensor | None:
    """The labels of the images of some seeds.

    Args:
        generator: The generator.
        seeds: The seeds.
        labels: Labels `[M, c_dim]`. Each seed takes a random row of them. None gives each seed the class seed modulo
            `c_dim`, so all classes are equally frequent.

    Returns:
        float32 `[N, c_dim]` on the device of the generator, or None for a network without labels.
    """
    c_dim, device = generator.cfg.c_dim, next(generator.parameters()).device
    if not c_dim:
        return None
    if labels is None:
        return torch.eye(c_dim, device=device)[torch.tensor([seed % c_dim for seed in seeds], device=device)]
    rows = [int(np.random.default_rng([seed, LABEL_STREAM]).integers(len(labels))) for seed in seeds]
    return torch.from_numpy(labels[rows]).float().to(device)
