"""Optimised noise: the regulariser that keeps a picture out of the noise maps (Karras et al. 2020a, appendix D).

Noise that carries a picture is correlated between neighbouring pixels. So the correlation of each map with itself, shifted by
one pixel, is a loss: at its own resolution, and at each half of it down to 8x8 pixels.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from stylert.models.stylegan2.generator import SynthesisNetwork

#: Side of the smallest map of a pyramid.
SMALLEST = 8
#: The last word of the names of noise maps among the buffers of a synthesis network.
BUFFER = "noise_const"
#: Lower bound of the deviation that a map is divided by.
EPS = 1e-8


def noise_buffers(synthesis: SynthesisNetwork) -> dict[str, Tensor]:
    """The constant noise `[R, R]` of each layer, by the name of its buffer."""
    return {name: buffer for name, buffer in synthesis.named_buffers() if name.endswith(BUFFER)}


def noise_regularization(maps: Iterable[Tensor]) -> Tensor:
    """The loss `sum over i, j of L_ij` of the maps i at the resolutions j, for each of N pictures.

        L = mean(n(x, y) n(x - 1, y))^2 + mean(n(x, y) n(x, y - 1))^2

    The maps wrap at their edges. Each pyramid averages 2x2 pixels and multiplies by 2, which keeps the variance of noise.

    Args:
        maps: The noise of each layer, `[N, 1, R, R]`.

    Returns:
        `[N]`.
    """
    parts = []
    for noise in maps:
        while True:
            for axis in (2, 3):
                parts.append((noise * noise.roll(1, axis)).mean((1, 2, 3)).square())
            if noise.shape[2] <= SMALLEST:
                break
            noise = F.avg_pool2d(noise, 2) * 2
    return torch.stack(parts).sum(0)


@torch.no_grad()
def renormalize(maps: Iterable[Tensor]) -> None:
    """Give each map `[N, 1, R, R]` zero mean and unit variance, in place."""
    for noise in maps:
        noise -= noise.mean((1, 2, 3), keepdim=True)
        noise /= noise.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(EPS)
