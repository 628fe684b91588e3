"""Perceptual path length: how far an image moves, perceptually, per step in latent space (Karras et al. 2018, section 4.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stylert.models.features.perceptual import Distance
from stylert.models.stylegan2.networks import Generator
from stylert.train.metrics.features import labels_in_turn

EPSILON = 1e-4
BATCH = 16
#: Above this, images are averaged down before they are compared.
COMPARED_SIZE = 256
#: Shares of the distances that are left out at both ends, in percent.
OUTLIERS = 1.0


@dataclass(frozen=True)
class Paths:
    """Where steps are taken: in `z` along great circles or in `w` along lines; anywhere (`full`) or at the ends alone.

    `crop` compares the middle of the image only, where a face of FFHQ is (rows 3/8 to 7/8, columns 2/8 to 6/8).
    """

    space: str = "w"
    full: bool = True
    crop: bool = False


@torch.no_grad()
def path_distances(
    generator: Generator,
    distance: Distance,
    paths: Paths,
    count: int,
    seed: int = 0,
    epsilon: float = EPSILON,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """`d(g(t), g(t + epsilon)) / epsilon^2` of `count` random pairs of latents, `[count]`. Labels in turn, constant noise."""
    random = torch.Generator().manual_seed(seed)
    out = []
    for start in range(0, count, BATCH):
        n = min(BATCH, count - start)
        # In float64 up to the network: a step of 1e-4 in float32 would be off by up to a thousandth.
        z = torch.randn(2, n, generator.cfg.z_dim, generator=random).double()
        t = torch.rand(n, 1, generator=random, dtype=torch.float64) if paths.full else torch.zeros(n, 1, dtype=torch.float64)
        c = labels_in_turn(generator, start, n)
        if paths.space == "z":
            ws = [generator.mapping(slerp(z[0], z[1], s), c) for s in (t, t + epsilon)]
        else:
            ends = [generator.mapping(end, c).double() for end in z]
            ws = [ends[0].lerp(ends[1], s[:, :, None]) for s in (t, t + epsilon)]
        images = generator.synthesis(torch.cat(ws), noise_mode="const")
        a, b = _compared(images, paths.crop).chunk(2)
        out.append((distance(a, b).double() / epsilon**2).numpy())
        if progress is not None:
            progress(start + n, count)
    return np.concatenate(out)


def mean_within(distances: np.ndarray) -> float:
    """Mean of the values between the 1st and the 99th percentile, both included."""
    low = np.percentile(distances, OUTLIERS, method="lower")
    high = np.percentile(distances, 100 - OUTLIERS, method="higher")
    return float(distances[(distances >= low) & (distances <= high)].mean())


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Points `[N, D]` at shares t `[N, 1]` of the great circles from a to b, on the unit sphere (Shoemake 1985)."""
    a, b = (x / x.norm(dim=1, keepdim=True) for x in (a, b))
    cosine = (a * b).sum(1, keepdim=True)
    angle = t * cosine.clamp(-1, 1).acos()
    across = b - cosine * a
    return a * angle.cos() + across / across.norm(dim=1, keepdim=True) * angle.sin()


def _compared(images: Tensor, crop: bool) -> Tensor:
    if crop:
        eighth = images.shape[2] // 8
        images = images[:, :, 3 * eighth : 7 * eighth, 2 * eighth : 6 * eighth]
    factor = images.shape[2] // COMPARED_SIZE
    if factor > 1:
        images = torch.nn.functional.avg_pool2d(images, factor)
    return images.expand(-1, 3, -1, -1)
