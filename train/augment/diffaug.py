"""DiffAugment (Zhao et al. 2020): color, translation and cutout, weaker than the groups of ADA and much cheaper.

An image gets all three or none. Projected GANs train with it (Sauer et al. 2021, section 4).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stylert.train.augment.random_parameters import integers, uniform

#: Brightness is shifted by half of this at most; images have a range of 2.
BRIGHTNESS = 1.0
#: Factor of the distance of each pixel's channels to their mean.
SATURATION = (0.0, 2.0)
#: Factor of the distance of each value to the image's mean.
CONTRAST = (0.5, 1.5)
#: Largest translation and sides of the hole, as shares of height and width.
TRANSLATION = 1 / 8
CUTOUT = 1 / 2


def diffaugment(images: Tensor, p: float) -> Tensor:
    """Augment each image of `[N, C, H, W]` with probability p. Pixels from outside and in the hole are 0, a middle grey."""
    augmented = _cut_out(_translate(_change_color(images)))
    chosen = (torch.rand(len(images)) < p).to(images.device)
    return torch.where(chosen[:, None, None, None], augmented, images)


def _change_color(x: Tensor) -> Tensor:
    brightness, saturation, contrast = (
        uniform(low, high, len(x), 1, 1, 1).to(x) for low, high in ((-BRIGHTNESS / 2, BRIGHTNESS / 2), SATURATION, CONTRAST)
    )
    x = x + brightness
    grey = x.mean(1, keepdim=True)
    x = torch.lerp(grey, x, saturation)
    return torch.lerp(x.mean((1, 2, 3), keepdim=True), x, contrast)


def _translate(x: Tensor) -> Tensor:
    n, c, height, width = x.shape
    down, right = (int(side * TRANSLATION + 0.5) for side in (height, width))
    rows, columns = (
        (integers(0, 2 * most, n, 1).long() + torch.arange(side)).to(x.device)
        for most, side in ((down, height), (right, width))
    )
    x = F.pad(x, (right, right, down, down))
    x = x.gather(2, rows[:, None, :, None].expand(n, c, height, width + 2 * right))
    return x.gather(3, columns[:, None, None, :].expand(n, c, height, width))


def _cut_out(x: Tensor) -> Tensor:
    n = len(x)
    inside = []
    for size in x.shape[2:]:  # the centre may lie anywhere, so a part of the hole may lie outside
        side = int(size * CUTOUT + 0.5)
        first = integers(0, size - 1, n, 1) - side // 2
        position = torch.arange(size) - first
        inside.append((position >= 0) & (position < side))
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return x.masked_fill(hole.to(x.device), 0)
