"""Point tracking (Pan et al. 2023, section 3.3): a handle is where its first feature is found again, near to its last place."""

from __future__ import annotations

import torch
from torch import Tensor

from stylert.train.dragging.motion import sample, square


@torch.no_grad()
def track(features: Tensor, references: Tensor, points: Tensor, radius: int) -> Tensor:
    """The new places of handles.

    Args:
        features: `[1, C, R, R]`.
        references: The feature of each handle before the drag, `[N, C]`.
        points: The last places, `[N, 2]`, x and y.
        radius: r2, in pixels: half the side of the square in which a handle is sought.

    Returns:
        The pixels with the least sum of absolute differences, `[N, 2]`. Of equal ones it is the one next to the last place.
    """
    offsets = square(radius)
    offsets = offsets[offsets.square().sum(1).argsort(stable=True)]
    side = features.shape[2]
    places = (points.round()[:, None] + offsets).clamp(0, side - 1)
    found = sample(features, places.flatten(0, 1)).unflatten(0, places.shape[:2])
    differences = (found - references[:, None]).abs().sum(2)
    return places[torch.arange(len(places)), differences.argmin(1)]
