"""The mean curvature of the loss of a projection, by the latents: how much each direction of ws changes images.

Few directions change an image much, and they are nearly the same ones everywhere (Wang and Ponce 2021, "A Geometric Analysis of Deep
Generative Image Models and Its Applications"). So their mean over random latents is computed once, with the encoder. The steps of a
refinement (`refinement`) divide by it, and a step along a direction that changes little is then as long as it must be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stylert.core.errors import InputError
from stylert.core.progress import Progress
from stylert.models.stylegan2.networks import Generator
from stylert.train.encoder.pairs import draw_latents
from stylert.train.projection.objective import Objective, Target

#: Random latents, and random gradients for each of them
LATENTS, GRADIENTS = 256, 4
#: Directions that are kept
RANK = 128


@dataclass(frozen=True)
class Curvature:
    """A symmetric matrix M over all D = num_ws * w_dim numbers of ws: some eigenvectors, and one eigenvalue for all other directions.

    Attributes:
        axes: The eigenvectors with the greatest eigenvalues, `[K, D]`.
        values: Their eigenvalues, `[K]`, above 0.
        rest: The mean of the other eigenvalues, above 0, a tensor of one number.
    """

    axes: Tensor
    values: Tensor
    rest: Tensor

    def solve(self, b: Tensor, damping: Tensor) -> Tensor:
        """x with (M + damping) x = b.

        Args:
            b: `[N, num_ws, w_dim]`.
            damping: `[N, 1, 1]`, 0 or more.

        Returns:
            x, of the shape of b.
        """
        rows, damping = b.flatten(1), damping.flatten(1)
        along = rows @ self.axes.T
        return ((rows - along @ self.axes) / (self.rest + damping) + along / (self.values + damping) @ self.axes).view_as(b)

    def solve_for_w(self, b: Tensor, damping: Tensor) -> Tensor:
        """As `solve`, for one latent `[N, 1, w_dim]` that all layers share: M summed over its blocks."""
        axes = self.axes.unflatten(1, (-1, b.shape[2]))
        layers, factor = axes.shape[1], axes.sum(1)
        matrix = factor.T * (self.values - self.rest) @ factor + layers * self.rest * torch.eye(b.shape[2])
        return torch.linalg.solve(matrix + damping * torch.eye(b.shape[2]), b.transpose(1, 2)).transpose(1, 2)

    def arrays(self) -> dict[str, np.ndarray]:
        """Its tensors by name, for a file."""
        return {"axes": self.axes.numpy(), "values": self.values.numpy(), "rest": self.rest.numpy()}


def curvature_of(arrays: Mapping[str, np.ndarray], numbers: int) -> Curvature:
    """The curvature in a file. `numbers` is D, the numbers of all latents.

    Raises:
        InputError: A tensor is missing, of another shape, or out of range.
    """
    if set(arrays) != {"axes", "values", "rest"}:
        raise InputError("the encoder is damaged: its curvature has other tensors than axes, values and rest")
    axes, values, rest = (torch.from_numpy(arrays[name].copy()) for name in ("axes", "values", "rest"))
    if values.ndim != 1 or not len(values) or axes.shape != (len(values), numbers) or rest.shape != (1,):
        raise InputError("the encoder is damaged: its curvature has another shape")
    if not (values > 0).all() or not rest > 0:
        raise InputError("the encoder is damaged: its curvature is not above 0")
    return Curvature(axes, values, rest)


def mean_curvature(
    generator: Generator, objective: Objective, batch: int, seed: int, progress: Progress | None = None
) -> Curvature:
    """Compute the mean of J^T H J over random latents, as they are drawn for training.

    J is the Jacobian of the image and its maps by ws, and H the second derivative of the loss by these. H is diagonal, because the
    loss is a weighted sum of squares. So J^T applied to noise of the variance H has the wanted mean as its covariance.

    Args:
        generator: The generator, frozen.
        objective: The loss.
        batch: Images per call of the network.
        seed: Of the latents and the noise.
        progress: Called after each call.

    Returns:
        The curvature, on the CPU.
    """
    draws, rows = torch.Generator().manual_seed(seed), []
    for done in range(0, LATENTS, batch):
        ws = draw_latents(generator, min(batch, LATENTS - done), draws).requires_grad_()
        images = generator.synthesis(ws, "const")
        outputs = [images, *objective.maps(images)]
        deviations = [h.clamp_min(0).sqrt() for h in _second_derivatives(objective, outputs)]
        for _ in range(GRADIENTS):
            noise = [h * torch.randn(h.shape, generator=draws).to(h.device) for h in deviations]
            (row,) = torch.autograd.grad(outputs, ws, noise, retain_graph=True)
            rows.append(row.flatten(1).cpu())
        if progress is not None:
            progress("curvature", done + len(ws), LATENTS)
    samples = torch.cat(rows).double()
    _, singular, axes = torch.linalg.svd(samples, full_matrices=False)
    values = (singular.square() / len(samples)).clamp_min(torch.finfo(torch.float32).tiny)
    rank = min(RANK, len(values) - 1)
    rest = values[rank:].sum() / (samples.shape[1] - rank)
    return Curvature(axes[:rank].float(), values[:rank].float(), rest.reshape(1).float())


def _second_derivatives(objective: Objective, outputs: list[Tensor]) -> tuple[Tensor, ...]:
    """The diagonal of H at outputs: the gradient one unit beside the target."""
    target = Target(outputs[0].detach(), [output.detach() for output in outputs[1:]])
    moved = [(output.detach() + 1).requires_grad_() for output in outputs]
    loss = objective.compare(moved[0], moved[1:], target).sum()
    return torch.autograd.grad(loss, moved, allow_unused=True, materialize_grads=True)
