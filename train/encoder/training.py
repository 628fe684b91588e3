"""Trains the encoder of a generator on the generator's own images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stylert.core.errors import InputError
from stylert.core.images.grids import as_uint8
from stylert.core.images.similarity import psnr_each
from stylert.core.progress import Progress
from stylert.core.seeds import z_from_seeds
from stylert.models.latent_encoder import EncoderConfig, LatentEncoder
from stylert.models.stylegan2.networks import Generator
from stylert.train.encoder.pairs import draw_pairs
from stylert.train.projection.objective import Objective
from stylert.train.projection.starts import LatentStatistics
from stylert.train.sampling import labels_of_seeds

#: Share of the steps in which the learning rate rises. It then falls to zero along a cosine.
RISE = 0.03
#: The trunk comes trained, and takes smaller steps than the heads.
TRUNK_RATE = 0.3
#: Longest gradient. The first steps through the generator would otherwise throw the heads far off.
MAX_GRADIENT = 5.0
#: First seed of the images that judge an encoder. No training pair has a seed.
FIRST_TEST_SEED = 1_000_000


@dataclass(frozen=True)
class EncoderSettings:
    """Settings of `train_encoder`.

    Attributes:
        steps: Training steps.
        batch: Pairs per step.
        rate: Greatest learning rate of the heads.
        seed: Of the heads' first weights and of all pairs.

    Raises:
        InputError: A value is out of range.
    """

    steps: int = 1500
    batch: int = 16
    rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or not 0 < self.rate < math.inf:
            raise InputError(f"steps, batch and rate are above 0, not {self.steps}, {self.batch} and {self.rate}")

    def learning_rate(self, step: int) -> float:
        """The learning rate of step 0, 1, ..."""
        share = (step + 1) / self.steps
        return self.rate * min(1.0, share / RISE) * (1 + math.cos(math.pi * step / self.steps)) / 2


@dataclass(frozen=True)
class HeldOut:
    """How well an encoder draws images of fresh seeds again, each figure a mean over them.

    Attributes:
        psnr: In dB.
        distance: The perceptual distance.
        latents: The squared distance of ws, in units of its variance: 1 for the average w.
    """

    psnr: float
    distance: float
    latents: float


def train_encoder(
    generator: Generator,
    statistics: LatentStatistics,
    objective: Objective,
    settings: EncoderSettings,
    progress: Progress | None = None,
) -> LatentEncoder:
    """Train an encoder. The same arguments give the same weights on the same machine.

    The loss is the squared distance of ws in units of its variance, plus that of a projection: pixels and perceptual distance
    of the image that is drawn again.

    Args:
        generator: The generator, frozen.
        statistics: The distribution of its w.
        objective: The loss of images.
        settings: See `EncoderSettings`.
        progress: Called after each step.

    Returns:
        The encoder, frozen, on the device of the generator.

    Raises:
        InputError: The images are neither grey nor RGB.
    """
    cfg, device = generator.cfg, next(generator.parameters()).device
    cfg.require_usual_shape("an encoder")
    if cfg.img_channels not in (1, 3):
        raise InputError(f"only grey and RGB images are encoded, and this network has {cfg.img_channels} channels")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        encoder = LatentEncoder(EncoderConfig(cfg.resolution, cfg.img_channels, cfg.num_ws, cfg.w_dim))
    encoder.set_statistics(statistics.samples)
    encoder.to(device).requires_grad_(True)
    trunk = list(encoder.trunk.parameters())
    others = [*encoder.lateral.parameters(), *encoder.heads.parameters()]
    optimizer = torch.optim.Adam([{"params": others}, {"params": trunk}], settings.rate, betas=(0.9, 0.99))
    draws = torch.Generator().manual_seed(settings.seed)
    for step in range(settings.steps):
        rate = settings.learning_rate(step)
        for group, share in zip(optimizer.param_groups, (1.0, TRUNK_RATE), strict=True):
            group["lr"] = rate * share
        ws, images = draw_pairs(generator, settings.batch, draws)
        found = encoder(images)
        drawn = generator.synthesis(found, "const")
        loss = latent_distance(found, ws, statistics) + objective(drawn, objective.target(images))
        optimizer.zero_grad()
        loss.mean().backward()
        torch.nn.utils.clip_grad_norm_([*others, *trunk], MAX_GRADIENT)
        optimizer.step()
        if progress is not None:
            progress("encoder", step + 1, settings.steps)
    return encoder.eval().requires_grad_(False)


def latent_distance(a: Tensor, b: Tensor, statistics: LatentStatistics) -> Tensor:
    """The squared distance `[N]` of ws `[N, num_ws, w_dim]`, as a mean over latents, in units of the variance of w."""
    return (a - b).square().sum(2).mean(1) / statistics.sigma**2


@torch.no_grad()
def held_out(
    encoder: LatentEncoder,
    generator: Generator,
    statistics: LatentStatistics,
    objective: Objective,
    count: int,
    psi: float = 1.0,
) -> HeldOut:
    """Encode images of `count` fresh seeds, and draw them again."""
    device = next(generator.parameters()).device
    rows = []
    for start in range(0, count, 16):
        seeds = range(FIRST_TEST_SEED + start, FIRST_TEST_SEED + min(start + 16, count))
        z = torch.from_numpy(z_from_seeds(seeds, generator.cfg.z_dim)).to(device)
        ws = generator.mapping(z, labels_of_seeds(generator, seeds), psi)
        images = generator.synthesis(ws, "const").clamp(-1, 1)
        found = encoder(images)
        drawn = generator.synthesis(found, "const").clamp(-1, 1)
        psnr = psnr_each(as_uint8(drawn.cpu().numpy()), as_uint8(images.cpu().numpy()))
        distance = objective.distance.compare(objective.maps(drawn), objective.maps(images))
        rows.append(np.stack([psnr, distance.cpu().numpy(), latent_distance(found, ws, statistics).cpu().numpy()]))
    return HeldOut(*(float(value) for value in np.concatenate(rows, 1).mean(1)))
