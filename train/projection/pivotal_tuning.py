"""Pivotal tuning (Roich et al. 2021): fine-tunes a generator until the latents of given pictures, the pivots, draw them.

The latents of a projection draw what the network can draw. Here the weights of the synthesis network move to what it could
not, such as a mark on one cat, while the latents stay. A second term keeps the images of other latents near the pivots as
they were. In the paper these lie at a fixed distance from a pivot; here the distance is that of random latents, so it fits any network.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stylert.core.errors import InputError
from stylert.core.progress import Progress
from stylert.models.stylegan2.networks import Generator
from stylert.train.projection.objective import Objective, Target
from stylert.train.projection.starts import LatentStatistics


@dataclass(frozen=True)
class TuningSettings:
    """Settings of `tune`.

    Attributes:
        steps: Number of steps, the paper's 350.
        rate: Learning rate of Adam, the paper's.
        locality: Weight of the term that keeps other images, the paper's. 0 leaves it out.
        batch: Pictures per step, which take turns.
        seed: Of the order of the pictures and of the latents near them.

    Raises:
        InputError: A value is out of range.
    """

    steps: int = 350
    rate: float = 3e-4
    locality: float = 0.1
    batch: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise InputError(f"tuning takes 1 step and 1 picture or more, not {self.steps} and {self.batch}")
        if not (0 < self.rate < math.inf and 0 <= self.locality < math.inf):
            raise InputError(f"the learning rate is above 0 and the locality not below, got {self.rate} and {self.locality}")


def tune(
    generator: Generator,
    statistics: LatentStatistics,
    objective: Objective,
    pivots: Tensor,
    targets: Sequence[Target],
    settings: TuningSettings,
    progress: Progress | None = None,
) -> Generator:
    """Tune a copy of a generator. The same arguments give the same weights.

    Args:
        generator: The original, which stays as it is.
        statistics: The distribution of its w.
        objective: The loss of an image against its picture, and against the image of the original network.
        pivots: ws `[N, num_ws, w_dim]`.
        targets: The picture of each.
        settings: See `TuningSettings`.
        progress: Called after each step.

    Returns:
        The tuned generator, frozen. Its mapping network is that of the original.
    """
    tuned = copy.deepcopy(generator)
    tuned.synthesis.requires_grad_()
    optimizer = torch.optim.Adam(tuned.synthesis.parameters(), settings.rate)
    draws = torch.Generator().manual_seed(settings.seed)
    order: list[int] = []
    for step in range(settings.steps):
        while len(order) < min(settings.batch, len(targets)):
            order += torch.randperm(len(targets), generator=draws).tolist()
        chosen, order = order[: settings.batch], order[settings.batch :]
        loss = _loss(tuned, pivots[chosen], [targets[i] for i in chosen], objective)
        if settings.locality:
            near = _near(pivots[chosen[:1]], statistics, draws)
            with torch.no_grad():
                kept = objective.target(generator.synthesis(near, "const"))
            loss = loss + settings.locality * _loss(tuned, near, [kept], objective)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if progress is not None:
            progress("tune", step + 1, settings.steps)
    return tuned.requires_grad_(False)


def _loss(generator: Generator, ws: Tensor, targets: Sequence[Target], objective: Objective) -> Tensor:
    """The mean loss of the images of ws, each against its target."""
    drawn = generator.synthesis(ws, "const")
    images = torch.cat([objective.shown(drawn[i : i + 1], target) for i, target in enumerate(targets)])
    maps = objective.maps(images)
    rows = [
        objective.compare(images[i : i + 1], [value[i : i + 1] for value in maps], target) for i, target in enumerate(targets)
    ]
    return torch.cat(rows).mean()


def _near(pivot: Tensor, statistics: LatentStatistics, draws: torch.Generator) -> Tensor:
    """ws `[1, num_ws, w_dim]` on the way from a pivot to a random w, as far from the pivot as random w are from the average."""
    number = int(torch.randint(len(statistics.samples), (1,), generator=draws))
    way = statistics.samples[number] - pivot
    return pivot + way * (statistics.sigma / way.norm(dim=2, keepdim=True).clamp_min(1e-8))
