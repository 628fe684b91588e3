"""Images of a generator by seed, for sample grids and for metrics. Labels, if any, cycle through the classes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stylert.core.images import as_uint8
from stylert.core.seeds import z_from_seeds
from stylert.models.stylegan2.networks import Generator

BATCH = 16


def sample_images(generator: Generator, count: int, psi: float = 1.0) -> np.ndarray:
    """Images of the seeds 0 to `count - 1`, in batches.

    Args:
        generator: The generator, on any device.
        count: Number of images.
        psi: Truncation; 1 is none.

    Returns:
        uint8 `[count, R, R, C]`.
    """
    batches = [generate(generator, start, min(BATCH, count - start), psi=psi) for start in range(0, count, BATCH)]
    return np.concatenate(batches)


@torch.no_grad()
def generate(generator: Generator, start: int, count: int, first_seed: int = 0, psi: float = 1.0) -> np.ndarray:
    """Images number `start` to `start + count - 1` of an endless series, in one batch with constant noise.

    Image i has the seed `first_seed + i` and the class i modulo `c_dim`.

    Returns:
        uint8 `[count, R, R, C]`.
    """
    device = next(generator.parameters()).device
    seeds = range(first_seed + start, first_seed + start + count)
    z = torch.from_numpy(z_from_seeds(seeds, generator.cfg.z_dim)).to(device)
    images = generator(z, cyclic_labels(generator, start, count), psi, noise_mode="const")
    return as_uint8(images.float().cpu().numpy())


def cyclic_labels(generator: Generator, start: int, count: int) -> Tensor | None:
    """One-hot labels `[count, c_dim]` of images number `start` and on: image i has the class i modulo `c_dim`.

    None for a network without labels.
    """
    c_dim, device = generator.cfg.c_dim, next(generator.parameters()).device
    if not c_dim:
        return None
    return torch.eye(c_dim, device=device)[torch.arange(start, start + count) % c_dim]
