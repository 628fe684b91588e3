"""The group color: one affine map of RGB per image (Karras et al. 2020b, appendix B, figure 24)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stylert.train.augment.draws import integers, log_normal, normal, sometimes, uniform

BRIGHTNESS_DEVIATION = 0.2
CONTRAST_OCTAVES = 0.5
SATURATION_OCTAVES = 1.0


@dataclass(frozen=True)
class Color:
    """Drawn changes of N images, in the order of their application; `[N]` each, float64 on the CPU."""

    brightness: Tensor  # added
    contrast: Tensor  # factor
    luma_flip: Tensor  # 0 or 1: mirror at the plane of zero luma
    hue: Tensor  # radians around the grey axis
    saturation: Tensor  # factor of the distance from the grey axis

    def matrices(self) -> Tensor:
        """`[N, 4, 4]` float64 on homogeneous RGB."""
        n = len(self.brightness)
        eye = torch.eye(4, dtype=torch.float64).expand(n, 4, 4)
        grey = torch.zeros(4, 4, dtype=torch.float64)
        grey[:3, :3] = 1 / 3  # the projection onto the grey axis
        rgb = torch.diag(torch.tensor([1.0, 1, 1, 0], dtype=torch.float64))
        hom = eye[0] - rgb
        cross = torch.tensor([[0.0, -1, 1, 0], [1, 0, -1, 0], [-1, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.float64) / math.sqrt(3)
        brightness = eye.clone()
        brightness[:, :3, 3] = self.brightness[:, None]
        contrast = rgb * self.contrast[:, None, None] + hom
        luma_flip = eye - 2 * grey * self.luma_flip[:, None, None]
        c, s = self.hue.cos()[:, None, None], self.hue.sin()[:, None, None]
        hue = grey + c * (rgb - grey) + s * cross + hom  # Rodrigues' formula
        saturation = grey + (rgb - grey) * self.saturation[:, None, None] + hom
        return saturation @ hue @ luma_flip @ contrast @ brightness


def draw_color(n: int, p: float) -> Color:
    return Color(
        brightness=sometimes(p, normal(BRIGHTNESS_DEVIATION, n), 0),
        contrast=sometimes(p, log_normal(CONTRAST_OCTAVES, n), 1),
        luma_flip=sometimes(p, integers(0, 1, n), 0),
        hue=sometimes(p, uniform(-math.pi, math.pi, n), 0),
        saturation=sometimes(p, log_normal(SATURATION_OCTAVES, n), 1),
    )


def recolor(images: Tensor, matrices: Tensor) -> Tensor:
    """Apply `[N, 4, 4]` matrices to RGB images `[N, 3, H, W]`, or to grey ones `[N, 1, H, W]`, which stay grey."""
    m = matrices.to(images)
    if images.shape[1] == 1:
        return images * m[:, :1, :3].sum(2)[:, :, None, None] + m[:, :1, 3, None, None]
    pixels = m[:, :3, :3] @ images.flatten(2) + m[:, :3, 3:]
    result = pixels.reshape(images.shape)
    untouched = (matrices == torch.eye(4, dtype=matrices.dtype)).all(2).all(1).to(images.device)
    return torch.where(untouched[:, None, None, None], images, result)
