"""The group `color`: one affine map of RGB per image (Karras et al. 2020b, appendix B, figure 24)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stylert.train.augment.random_parameters import integers, log_normal, normal, uniform, with_probability

# The names of these constants are those of the official code.
BRIGHTNESS_STD = 0.2
CONTRAST_STD = 0.5
SATURATION_STD = 1.0


@dataclass(frozen=True)
class Color:
    """Random changes of N images, in the order in which they are applied. Each is float64 `[N]` on the CPU.

    Attributes:
        brightness: Added to all channels.
        contrast: Factor of all channels.
        lumaflip: 0 or 1. 1 mirrors the colors at the plane of zero luma.
        hue: Rotation around the grey axis, in radians.
        saturation: Factor of the distance from the grey axis.
    """

    brightness: Tensor
    contrast: Tensor
    lumaflip: Tensor
    hue: Tensor
    saturation: Tensor

    def matrices(self) -> Tensor:
        """The changes of each image as one matrix, float64 `[N, 4, 4]` on homogeneous RGB."""
        n = len(self.brightness)
        identity = torch.eye(4, dtype=torch.float64).expand(n, 4, 4)
        grey = torch.zeros(4, 4, dtype=torch.float64)
        grey[:3, :3] = 1 / 3  # the projection onto the grey axis
        rgb = torch.diag(torch.tensor([1.0, 1, 1, 0], dtype=torch.float64))
        homogeneous = identity[0] - rgb
        cross = torch.tensor([[0.0, -1, 1, 0], [1, 0, -1, 0], [-1, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.float64) / math.sqrt(3)
        brightness = identity.clone()
        brightness[:, :3, 3] = self.brightness[:, None]
        contrast = rgb * self.contrast[:, None, None] + homogeneous
        lumaflip = identity - 2 * grey * self.lumaflip[:, None, None]
        cos, sin = self.hue.cos()[:, None, None], self.hue.sin()[:, None, None]
        hue = grey + cos * (rgb - grey) + sin * cross + homogeneous  # Rodrigues' formula
        saturation = grey + (rgb - grey) * self.saturation[:, None, None] + homogeneous
        return saturation @ hue @ lumaflip @ contrast @ brightness


def random_color(n: int, p: float) -> Color:
    """Random changes of `n` images, each applied with probability `p`."""
    return Color(
        brightness=with_probability(p, normal(BRIGHTNESS_STD, n), 0),
        contrast=with_probability(p, log_normal(CONTRAST_STD, n), 1),
        lumaflip=with_probability(p, integers(0, 1, n), 0),
        hue=with_probability(p, uniform(-math.pi, math.pi, n), 0),
        saturation=with_probability(p, log_normal(SATURATION_STD, n), 1),
    )


def apply_color(images: Tensor, matrices: Tensor) -> Tensor:
    """Apply the matrices of `Color` to images. Grey images stay grey; images with the identity matrix stay bit for bit.

    Args:
        images: `[N, 1 or 3, H, W]`.
        matrices: `[N, 4, 4]`.
    """
    m = matrices.to(images)
    if images.shape[1] == 1:
        gain, offset = m[:, :1, :3].sum(2), m[:, :1, 3]
        return images * gain[:, :, None, None] + offset[:, :, None, None]
    pixels = m[:, :3, :3] @ images.flatten(2) + m[:, :3, 3:]
    result = pixels.reshape(images.shape)
    untouched = (matrices == torch.eye(4, dtype=matrices.dtype)).all(2).all(1).to(images.device)
    return torch.where(untouched[:, None, None, None], images, result)
