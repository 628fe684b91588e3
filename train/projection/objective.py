"""The loss of a projection: a perceptual distance to the picture, and optionally the squared difference of the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from stylert.models.features.perceptual import MapDistance

#: Largest side at which images are compared by LPIPS, as in the paper. Larger ones are averaged down to it.
LPIPS_SIDE = 256


@dataclass(frozen=True)
class Target:
    """A picture that is projected.

    Attributes:
        image: `[1, C, R, R]` in [-1, 1].
        maps: Its maps, as of `MapDistance.maps`.
    """

    image: Tensor
    maps: Sequence[Tensor]


class Objective:
    """The loss of images against a picture.

    Args:
        distance: The perceptual distance.
        pixel_weight: Weight of the mean squared difference of the pixels, whose values are in [-1, 1].
    """

    def __init__(self, distance: MapDistance, pixel_weight: float) -> None:
        self.distance, self.pixel_weight = distance, pixel_weight

    @torch.no_grad()
    def target(self, image: Tensor) -> Target:
        """The target of a picture `[1, C, R, R]` in [-1, 1]."""
        return Target(image, self.maps(image))

    def maps(self, images: Tensor) -> list[Tensor]:
        """The maps of images `[N, C, R, R]`."""
        side = images.shape[2]
        return self.distance.maps(F.avg_pool2d(images, side // LPIPS_SIDE) if side > LPIPS_SIDE else images)

    def compare(self, images: Tensor, maps: Sequence[Tensor], target: Target) -> Tensor:
        """The loss `[N]` of images `[N, C, R, R]` whose maps are known."""
        loss = self.distance.compare(maps, target.maps)
        if self.pixel_weight:
            loss = loss + self.pixel_weight * (images - target.image).square().mean((1, 2, 3))
        return loss

    def __call__(self, images: Tensor, target: Target) -> Tensor:
        """The loss `[N]` of images `[N, C, R, R]`."""
        return self.compare(images, self.maps(images), target)
