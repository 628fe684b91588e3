"""The projection of a picture into W, and then into W+, by optimisation (Karras et al. 2020a, section 5 and appendix D).

Beyond the paper: a projection starts from the random latents whose images are nearest to the picture. Several run side by side
for a while, and the best one goes on. The noise may stay that of the network, which engines draw. Then the latents alone give
the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from stylert.core.errors import InputError
from stylert.core.images.grids import as_uint8
from stylert.core.images.similarity import psnr
from stylert.core.progress import Progress
from stylert.models.stylegan2.networks import Generator
from stylert.train.projection.noise_maps import noise_buffers, noise_regularization, renormalize
from stylert.train.projection.objective import Objective, Target
from stylert.train.projection.schedule import Schedule
from stylert.train.projection.starts import LatentStatistics

Space = Literal["w", "w+"]
Noise = Literal["const", "optimised"]
#: The paper's alpha, the weight of the regulariser of noise.
NOISE_WEIGHT = 1e5
#: Share of the steps after which only the start with the least loss goes on.
TRIAL = 0.25
#: Images that `Projector.project` passes on of each stage, for a video.
FRAMES = 100


@dataclass(frozen=True)
class ProjectionSettings:
    """Settings of `Projector`.

    Attributes:
        space: `w`: one latent for all layers. `w+`: from there, a latent for each layer, in as many steps again.
        noise: `const`: the network's own. `optimised`: the noise maps are optimised, too, as in the paper.
        schedule: That of w. In W+ no noise is added.
        plus_rate: Largest learning rate in W+.
        noise_weight: Weight of the regulariser of optimised noise.
        seed: Of the noise on w and of the first noise maps.
    """

    space: Space = "w"
    noise: Noise = "const"
    schedule: Schedule = field(default_factory=Schedule)
    plus_rate: float = 0.02
    noise_weight: float = NOISE_WEIGHT
    seed: int = 0

    def __post_init__(self) -> None:
        if self.space not in ("w", "w+"):
            raise InputError(f"the space is w or w+, not {self.space!r}")
        if self.noise not in ("const", "optimised"):
            raise InputError(f"the noise is const or optimised, not {self.noise!r}")


@dataclass(frozen=True)
class Projection:
    """The result for one picture.

    Attributes:
        ws: float32 `[num_ws, w_dim]`.
        image: The image of `ws` with the network's constant noise, as engines draw it, uint8 `[R, R, C]`.
        psnr: Its PSNR to the picture, in dB.
        distance: Its perceptual distance to the picture.
        noise: The optimised noise `[R, R]` of each layer, by the name of its buffer. Empty with constant noise.
        noise_psnr: The PSNR of the image with that noise. None with constant noise.
    """

    ws: np.ndarray
    image: np.ndarray
    psnr: float
    distance: float
    noise: dict[str, np.ndarray]
    noise_psnr: float | None


class Projector:
    """Projects pictures into the latents of one generator.

    Args:
        generator: The generator, frozen, on the CPU.
        statistics: The distribution of its w.
        objective: The loss.
        settings: See `ProjectionSettings`.
    """

    def __init__(
        self, generator: Generator, statistics: LatentStatistics, objective: Objective, settings: ProjectionSettings
    ) -> None:
        self.generator, self.statistics, self.objective, self.settings = generator, statistics, objective, settings

    def project(
        self,
        target: Target,
        starts: Tensor,
        progress: Progress | None = None,
        on_image: Callable[[np.ndarray], None] | None = None,
        stage: str = "project",
    ) -> Projection:
        """Project one picture. The same arguments give the same result, whatever was projected before.

        Args:
            target: The picture.
            starts: w `[N, w_dim]`: so many projections run side by side for `TRIAL` of the steps. Then the best one goes on.
            progress: Called after each step with `stage`.
            on_image: Called with `FRAMES` images of each space, uint8 `[R, R, C]`. Those of the trial show the first start.
            stage: Name for `progress`.
        """
        cfg, settings = self.generator.cfg, self.settings
        draws = torch.Generator().manual_seed(settings.seed)
        noise: dict[str, Tensor] = {}
        if settings.noise == "optimised":
            for name, buffer in noise_buffers(self.generator.synthesis).items():
                noise[name] = torch.randn((len(starts), 1, *buffer.shape), generator=draws).requires_grad_()
            renormalize(noise.values())
        run = _Run(self, target, noise, draws, progress, on_image, stage)
        ws = run.optimise(starts.unsqueeze(1).clone(), settings.schedule).expand(-1, cfg.num_ws, -1).clone()
        if settings.space == "w+":
            ws = run.optimise(ws, Schedule(settings.schedule.steps, settings.plus_rate, 0.0))
        return self._measured(ws, run.noise, target, run)

    @torch.no_grad()
    def _measured(self, ws: Tensor, noise: dict[str, Tensor], target: Target, run: _Run) -> Projection:
        picture = as_uint8(target.image.numpy())[0]
        image = run.images(ws, {})
        drawn = as_uint8(image.numpy())[0]
        distance = self.objective.distance.compare(self.objective.maps(image.clamp(-1, 1)), target.maps)
        noise_psnr = psnr(as_uint8(run.images(ws, noise).numpy())[0], picture) if noise else None
        maps = {name: value[0, 0].detach().numpy().copy() for name, value in noise.items()}
        return Projection(ws[0].numpy().copy(), drawn, psnr(drawn, picture), float(distance[0]), maps, noise_psnr)


@dataclass
class _Run:
    """The optimisation of one picture. `noise` are the maps that are optimised, `[N, 1, R, R]` each."""

    projector: Projector
    target: Target
    noise: dict[str, Tensor]
    draws: torch.Generator
    progress: Progress | None
    on_image: Callable[[np.ndarray], None] | None
    stage: str
    done: int = 0

    def images(self, ws: Tensor, noise: dict[str, Tensor]) -> Tensor:
        """The images of ws `[N, 1 or num_ws, w_dim]`. A network's own noise takes the place of maps that are missing."""
        synthesis = self.projector.generator.synthesis
        images: Tensor = functional_call(synthesis, noise, (ws.expand(-1, synthesis.cfg.num_ws, -1), "const"))
        return images

    def optimise(self, ws: Tensor, schedule: Schedule) -> Tensor:
        """Optimise ws `[N, 1 or num_ws, w_dim]`, and the noise with it. Returns the best ones `[1, ...]`, without a gradient."""
        objective, sigma = self.projector.objective, self.projector.statistics.sigma
        ws.requires_grad_()
        optimizer = torch.optim.Adam([ws, *self.noise.values()], schedule.rate, betas=(0.9, 0.999), eps=1e-8)
        trial = math.ceil(schedule.steps * TRIAL)
        total = schedule.steps * (2 if self.projector.settings.space == "w+" else 1)
        for step in range(schedule.steps):
            if step == trial and len(ws) > 1:
                ws = self._keep_best(ws, optimizer)
            optimizer.param_groups[0]["lr"] = schedule.learning_rate(step)
            explored = ws + torch.randn(ws.shape, generator=self.draws) * (sigma * schedule.noise_scale(step))
            loss = objective(self.images(explored, self.noise), self.target)
            if self.noise:
                loss = loss + self.projector.settings.noise_weight * noise_regularization(self.noise.values())
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
            renormalize(self.noise.values())
            self.done += 1
            if self.on_image is not None and (step + 1) * FRAMES // schedule.steps > step * FRAMES // schedule.steps:
                with torch.no_grad():
                    self.on_image(as_uint8(self.images(ws[:1], {}).numpy())[0])
            if self.progress is not None:
                self.progress(self.stage, self.done, total)
        if len(ws) > 1:  # there are too few steps for a trial
            ws = self._keep_best(ws, optimizer)
        return ws.detach()

    @torch.no_grad()
    def _keep_best(self, ws: Tensor, optimizer: torch.optim.Adam) -> Tensor:
        """The ws with the least loss. Its noise and its state in the optimizer stay, and all others go."""
        best = int(self.projector.objective(self.images(ws, self.noise), self.target).argmin())
        kept = []
        for parameter in optimizer.param_groups[0]["params"]:
            chosen = parameter[best : best + 1].clone().requires_grad_()
            state = optimizer.state.pop(parameter)
            optimizer.state[chosen] = {
                name: value[best : best + 1].clone() if value.shape == parameter.shape else value
                for name, value in state.items()
            }
            kept.append(chosen)
        optimizer.param_groups[0]["params"] = kept
        self.noise = dict(zip(self.noise, kept[1:], strict=True))
        return kept[0]
