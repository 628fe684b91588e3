"""A few steps of optimisation that start from an encoder's latents, for several pictures at once.

The method is that of Levenberg and Marquardt with the generalised Gauss-Newton matrix (Schraudolph 2002). The loss L is quadratic in
the outputs of the networks, which are the image and its feature maps. With the outputs' Jacobian J, a change d of the latents solves

    (J^T H J + damping) d = -gradient,    H = the second derivative of L by the outputs

by conjugate gradients. J p is a difference of the outputs, and J^T of a vector is one pass backwards. So a step of conjugate gradients
costs as much as one of Adam. The mean curvature of random latents is the preconditioner (`curvature`). The first rounds compare pixels
alone, which is faster, and the last ones the whole loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stylert.core.errors import InputError
from stylert.core.images.grids import as_uint8
from stylert.core.images.similarity import psnr
from stylert.core.progress import Progress
from stylert.models.stylegan2.networks import Generator
from stylert.train.encoder.curvature import Curvature
from stylert.train.projection.objective import Objective, Target
from stylert.train.projection.projector import Projection, Space

#: Steps of a round: the pass for the gradient, and those of conjugate gradients. In the second half a linearisation holds farther.
ROUNDS = (5, 10)
#: Share of the steps in which pixels alone are compared.
PIXELS = 0.75
#: First damping, and its factors after a round that made the loss smaller, and after one that did not.
DAMPING, BETTER, WORSE = 0.005, 0.3, 5.0
#: Length of the difference for J p, for each latent.
DIFFERENCE = 0.02
#: Lower bound of what is divided by.
EPS = 1e-20


@dataclass(frozen=True)
class RefinementSettings:
    """Settings of `Refiner`.

    Attributes:
        space: `w+`: a latent for each layer. `w`: one for all of them, from the mean of the encoder's.
        steps: Passes through the networks and back; 0 leaves the encoder's latents as they are.

    Raises:
        InputError: A value is out of range.
    """

    space: Space = "w+"
    steps: int = 40

    def __post_init__(self) -> None:
        if self.space not in ("w", "w+"):
            raise InputError(f"the space is w or w+, not {self.space!r}")
        if self.steps < 0:
            raise InputError(f"a refinement has 0 steps or more, not {self.steps}")


class Refiner:
    """Refines latents of pictures for one generator.

    Args:
        generator: The generator, frozen, on the CPU.
        objective: The loss.
        curvature: The mean curvature of such a loss.
        settings: See `RefinementSettings`.
    """

    def __init__(self, generator: Generator, objective: Objective, curvature: Curvature, settings: RefinementSettings) -> None:
        self.generator, self.objective, self.curvature, self.settings = generator, objective, curvature, settings

    @torch.no_grad()
    def refine(self, images: Tensor, ws: Tensor, progress: Progress | None = None) -> list[Projection]:
        """Refine the latents of N pictures. No picture has a part in the result of another.

        Args:
            images: The pictures, `[N, C, R, R]` in [-1, 1].
            ws: Their latents, `[N, num_ws, w_dim]`.
            progress: Called after each round of steps.

        Returns:
            The N results. No picture ends with a greater loss than it began with.
        """
        steps, target = self.settings.steps, self.objective.target(images)
        of_pixels = Objective(NoDistance(), self.objective.pixel_weight)
        pixels = _Loss(self.generator, of_pixels, self.curvature, Target(images, []))
        whole = _Loss(self.generator, self.objective, self.curvature, target)
        start = latents = ws.mean(1, keepdim=True) if self.settings.space == "w" else ws
        damping = torch.full((len(ws), 1, 1), DAMPING)
        for done, count in rounds(steps):
            loss = pixels if self.objective.pixel_weight and done + count <= PIXELS * steps else whole
            moved, before = loss.step(latents, damping, max(count - 1, 1))
            is_better = (loss(moved) < before)[:, None, None]
            latents = torch.where(is_better, moved, latents)
            damping = damping * torch.where(is_better, BETTER, WORSE)
            if progress is not None:
                progress("refine", done + count, steps)
        if steps:
            latents = torch.where((whole(latents) < whole(start))[:, None, None], latents, start)
        return self._measured(images, latents.expand(-1, self.generator.cfg.num_ws, -1), target)

    def _measured(self, images: Tensor, ws: Tensor, target: Target) -> list[Projection]:
        drawn = self.generator.synthesis(ws, "const")
        distances = self.objective.distance.compare(self.objective.maps(drawn.clamp(-1, 1)), target.maps)
        found, pictures = as_uint8(drawn.numpy()), as_uint8(images.numpy())
        return [
            Projection(latents.numpy().copy(), image, psnr(image, picture), float(distance), {}, None)
            for latents, image, picture, distance in zip(ws, found, pictures, distances, strict=True)
        ]


def rounds(steps: int) -> Iterator[tuple[int, int]]:
    """The rounds of a refinement: the steps before each, and its own."""
    done = 0
    while done < steps:
        count = min(ROUNDS[2 * done >= steps], steps - done)
        yield done, count
        done += count


class NoDistance:
    """The distance of those who compare pixels alone."""

    name = "none"

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return a.new_zeros(len(a))

    def maps(self, images: Tensor) -> list[Tensor]:
        """See `MapDistance`."""
        return []

    def compare(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """See `MapDistance`."""
        return torch.zeros(1)


class _Loss:
    """The loss of latents `[N, 1 or num_ws, w_dim]` against N pictures, and its steps of Gauss-Newton."""

    def __init__(self, generator: Generator, objective: Objective, curvature: Curvature, target: Target) -> None:
        self.generator, self.objective, self.curvature, self.target = generator, objective, curvature, target

    def __call__(self, latents: Tensor) -> Tensor:
        """The losses `[N]`."""
        outputs = self._outputs(latents)
        return self.objective.compare(outputs[0], outputs[1:], self.target)

    def step(self, latents: Tensor, damping: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """The latents after some steps of conjugate gradients, and the losses `[N]` before. `damping` is `[N, 1, 1]`."""
        point = latents.clone().requires_grad_()
        with torch.enable_grad():
            outputs = self._outputs(point)
        before = [output.detach() for output in outputs]

        def backwards(gradients: Sequence[Tensor]) -> Tensor:
            (found,) = torch.autograd.grad(outputs, point, gradients, retain_graph=True)
            return found

        def curvature(direction: Tensor) -> Tensor:
            """(J^T H J + damping) times a direction."""
            length = DIFFERENCE * math.sqrt(direction.shape[1]) / _dot(direction, direction).sqrt().clamp_min(EPS)
            after = self._outputs(latents + length * direction)
            slopes = [(b - a) / length.reshape(-1, *[1] * (a.ndim - 1)) for a, b in zip(before, after, strict=True)]
            return backwards(self._hessian(slopes)) + damping * direction

        def divided(b: Tensor) -> Tensor:
            is_w = b.shape[1] == 1 < self.generator.cfg.num_ws
            return self.curvature.solve_for_w(b, damping) if is_w else self.curvature.solve(b, damping)

        change = conjugate_gradients(curvature, -backwards(self._gradients(before)), steps, divided)
        return latents + change, self.objective.compare(before[0], before[1:], self.target)

    def _outputs(self, latents: Tensor) -> list[Tensor]:
        """The images of latents as they are shown, and their maps."""
        drawn = self.generator.synthesis(latents.expand(-1, self.generator.cfg.num_ws, -1), "const")
        images = self.objective.shown(drawn, self.target)
        return [images, *self.objective.maps(images)]

    def _gradients(self, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """The gradient of the loss by the outputs."""
        with torch.enable_grad():
            leaves = [output.detach().requires_grad_() for output in outputs]
            loss = self.objective.compare(leaves[0], leaves[1:], self.target).sum()
            return torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)

    def _hessian(self, changes: Sequence[Tensor]) -> Sequence[Tensor]:
        """H times a change of the outputs. The loss is quadratic, and its gradient at the target is zero."""
        there = [self.target.image, *self.target.maps]
        return self._gradients([a + b for a, b in zip(there, changes, strict=True)])


Product = Callable[[Tensor], Tensor]


@torch.no_grad()
def conjugate_gradients(matrix: Product, b: Tensor, steps: int, preconditioner: Product = torch.clone) -> Tensor:
    """Solve `matrix(x) = b` for each of N symmetric positive matrices, as far as some steps go.

    Args:
        matrix: The product of the matrices with vectors `[N, ...]`.
        b: `[N, ...]`, of three dimensions.
        steps: Number of products.
        preconditioner: The product of vectors with symmetric positive matrices that are nearly the inverse ones.

    Returns:
        x, of the shape of b.
    """
    x, residual = torch.zeros_like(b), b
    direction = scaled = preconditioner(residual)
    square = _dot(residual, scaled)
    for _ in range(steps):
        product = matrix(direction)
        length = square / _dot(direction, product).clamp_min(EPS)
        x, residual = x + length * direction, residual - length * product
        scaled = preconditioner(residual)
        before, square = square, _dot(residual, scaled)
        direction = scaled + square / before.clamp_min(EPS) * direction
    return x


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The product of vectors `[N, ...]`, as `[N, 1, 1]`."""
    return (a * b).flatten(1).sum(1)[:, None, None]
