"""The loss of a projection: a perceptual distance to the picture, and optionally the squared difference of the pixels.

A network draws values beyond white and black, and a file holds white and black in their place. So a pixel that is white in the picture
may be any value from white on (`Objective.shown`). Otherwise such pixels, 18 % of the images of the shipped network, would pull the
latents away from those that drew them.
"""

from __future__ import annotations

import math
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
        """The target of a picture `[1, C, R, R]`. Values outside [-1, 1] count as the nearest one inside."""
        image = image.clamp(-1, 1)
        return Target(image, self.maps(image))

    @staticmethod
    def shown(images: Tensor, target: Target) -> Tensor:
        """Images `[N, C, R, R]`, with values beyond white and black cut where the picture is white or black.

        Elsewhere they stay, so that a pixel which is too bright has a gradient.
        """
        most = torch.where(target.image >= 1, 1.0, math.inf)
        least = torch.where(target.image <= -1, -1.0, -math.inf)
        return torch.minimum(torch.maximum(images, least), most)

    def maps(self, images: Tensor) -> list[Tensor]:
        """The maps of images `[N, C, R, R]`."""
        side = images.shape[2]
        return self.distance.maps(F.avg_pool2d(images, side // LPIPS_SIDE) if side > LPIPS_SIDE else images)

    def compare(self, images: Tensor, maps: Sequence[Tensor], target: Target) -> Tensor:
        """The loss `[N]` of images `[N, C, R, R]` whose maps are known, as they are `shown`."""
        loss = self.distance.compare(maps, target.maps)
        if self.pixel_weight:
            loss = loss + self.pixel_weight * (images - target.image).square().mean((1, 2, 3))
        return loss

    def __call__(self, images: Tensor, target: Target) -> Tensor:
        """The loss `[N]` of images `[N, C, R, R]`."""
        images = self.shown(images, target)
        return self.compare(images, self.maps(images), target)
