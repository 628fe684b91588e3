"""The losses of a drag (Pan et al. 2023, section 3.2): motion supervision, and the mask.

Motion supervision asks that the features one step towards the target become those that are around the handle now:

    L = sum over handles i of the mean over q in Omega(p_i, r1) of |F(q) - F(q + d_i)|

F(q) is a constant here, so the features move towards the target and not back. d_i is the unit vector from handle to target, or the
rest of the way where it is shorter.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def sample(features: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of features `[1, C, R, R]` at points `[N, 2]`, x and y in pixels. Returns `[N, C]`.

    Beyond the edge, the values are those of the edge.
    """
    grid = (2 * points + 1) / features.shape[2] - 1
    values = F.grid_sample(features, grid[None, None], mode="bilinear", padding_mode="border", align_corners=False)
    return values[0, :, 0].T


def disc(radius: int) -> Tensor:
    """The whole-numbered offsets `[N, 2]` within a radius, x and y."""
    offsets = square(radius)
    return offsets[offsets.square().sum(1) <= radius**2]


def square(radius: int) -> Tensor:
    """The whole-numbered offsets `[N, 2]` of a square with the side `2 radius + 1`, row by row."""
    steps = torch.arange(-radius, radius + 1.0)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1)


def motion_loss(features: Tensor, points: Tensor, targets: Tensor, radius: int) -> Tensor:
    """The loss of motion supervision.

    Args:
        features: `[1, C, R, R]`.
        points: Where the handles are, `[N, 2]`.
        targets: Their targets, `[N, 2]`.
        radius: r1, in pixels.

    Returns:
        A scalar.
    """
    way = targets - points
    step = way / way.norm(dim=1, keepdim=True).clamp_min(1.0)
    around = points[:, None] + disc(radius)
    here = sample(features.detach(), around.flatten(0, 1))
    ahead = sample(features, (around + step[:, None]).flatten(0, 1))
    return (here - ahead).abs().mean() * len(points)


def mask_loss(features: Tensor, first: Tensor, is_fixed: Tensor) -> Tensor:
    """The mean change of the features where they are to stay.

    Args:
        features: `[1, C, R, R]`.
        first: Those before the drag.
        is_fixed: `[R, R]`, 1 where the image is to stay and 0 where it may change.
    """
    return ((features - first) * is_fixed).abs().mean()
