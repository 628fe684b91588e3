"""Statistics of w, and the random latents whose images are nearest to a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stylert.core.progress import Progress
from stylert.models.stylegan2.networks import Generator
from stylert.train.projection.objective import Objective, Target

#: Random latents from which the mean and the deviation of w are computed, as in the paper.
SAMPLES = 10_000
#: Images per call of the network.
BATCH = 16


@dataclass(frozen=True)
class LatentStatistics:
    """The distribution of w.

    Attributes:
        samples: Random w `[SAMPLES, w_dim]`, of all classes alike.
        mean: `[w_dim]`.
        sigma: The root of the mean squared distance of w to the mean, the paper's sigma_w.
    """

    samples: Tensor
    mean: Tensor
    sigma: float


@torch.no_grad()
def latent_statistics(generator: Generator, seed: int = 0) -> LatentStatistics:
    """Draw `SAMPLES` random latents. The same seed draws the same ones."""
    cfg, rng = generator.cfg, np.random.default_rng(seed)
    z = torch.from_numpy(rng.standard_normal((SAMPLES, cfg.z_dim), np.float32))
    c = torch.eye(cfg.c_dim)[torch.from_numpy(rng.integers(cfg.c_dim, size=SAMPLES))] if cfg.c_dim else None
    w = generator.mapping(z, c)[:, 0]
    mean = w.mean(0)
    return LatentStatistics(w, mean, float((w - mean).square().sum(1).mean().sqrt()))


@torch.no_grad()
def nearest_latents(
    generator: Generator,
    statistics: LatentStatistics,
    objective: Objective,
    targets: Sequence[Target],
    candidates: int,
    starts: int,
    progress: Progress | None = None,
) -> list[Tensor]:
    """For each picture, the random latents with the least loss, the best one first.

    Args:
        generator: The generator.
        statistics: Its random latents.
        objective: The loss.
        targets: The pictures.
        candidates: How many random latents are compared, at most `SAMPLES`.
        starts: How many of them are returned for each picture.
        progress: Called after each batch of images.

    Returns:
        w `[starts, w_dim]` for each picture.
    """
    losses = torch.empty(len(targets), candidates)
    for begin in range(0, candidates, BATCH):
        w = statistics.samples[begin : min(begin + BATCH, candidates)]
        images = generator.synthesis(w.unsqueeze(1).expand(-1, generator.cfg.num_ws, -1), "const").clamp(-1, 1)
        maps = objective.maps(images)
        for row, target in zip(losses, targets, strict=True):
            row[begin : begin + len(w)] = objective.compare(images, maps, target)
        if progress is not None:
            progress("random latents", begin + len(w), candidates)
    return [statistics.samples[row.argsort(stable=True)[:starts]].clone() for row in losses]
