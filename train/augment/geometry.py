"""The groups blit and geom: where each pixel of an augmented image comes from.

Karras et al. 2020b, appendix B, figure 24: the drawn transformations of one image make one matrix, so that it is resampled
once. Coordinates are pixels from the centre of the image, x to the right and y down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stylert.train.augment.draws import integers, log_normal, normal, sometimes, uniform

MAX_INTEGER_SHIFT = 0.125  # of the side
SCALE_OCTAVES = 0.2
SHIFT_DEVIATION = 0.125  # of the side


@dataclass(frozen=True)
class Geometry:
    """Drawn transformations of N images, in the order of their application; float64 on the CPU."""

    flip: Tensor  # [N] 0 or 1: mirror left and right
    quarters: Tensor  # [N] turns by 90 degrees, 0 to 3
    shift: Tensor  # [N, 2] whole pixels (x, y)
    scale: Tensor  # [N] the same in both directions
    turn_before: Tensor  # [N] radians
    stretch: Tensor  # [N] times in x, divided by in y
    turn_after: Tensor  # [N] radians
    drift: Tensor  # [N, 2] pixels (x, y)

    def matrices(self) -> Tensor:
        """`[N, 3, 3]` float64: homogeneous coordinates of the original image to those of the augmented one."""
        return (
            _translation(self.drift)
            @ _rotation(self.turn_after)
            @ _scaling(self.stretch, 1 / self.stretch)
            @ _rotation(self.turn_before)
            @ _scaling(self.scale, self.scale)
            @ _translation(self.shift)
            @ _rotation(self.quarters * (math.pi / 2))
            @ _scaling(1 - 2 * self.flip, torch.ones_like(self.flip))
        )


def draw_geometry(n: int, size: int, p: float, blit: bool, geom: bool) -> Geometry:
    """Transformations of n square images of `size` pixels; a group that is off stays neutral."""
    p_blit, p_geom = p * blit, p * geom
    # One of the two rotations, or both, are applied with probability p.
    p_turn = 1 - math.sqrt(1 - p_geom)
    return Geometry(
        flip=sometimes(p_blit, integers(0, 1, n), 0),
        quarters=sometimes(p_blit, integers(0, 3, n), 0),
        shift=sometimes(p_blit, (uniform(-1, 1, n, 2) * (MAX_INTEGER_SHIFT * size)).round(), 0),
        scale=sometimes(p_geom, log_normal(SCALE_OCTAVES, n), 1),
        turn_before=sometimes(p_turn, uniform(-math.pi, math.pi, n), 0),
        stretch=sometimes(p_geom, log_normal(SCALE_OCTAVES, n), 1),
        turn_after=sometimes(p_turn, uniform(-math.pi, math.pi, n), 0),
        drift=sometimes(p_geom, normal(SHIFT_DEVIATION * size, n, 2), 0),
    )


def _translation(shift: Tensor) -> Tensor:
    m = torch.eye(3, dtype=torch.float64).repeat(len(shift), 1, 1)
    m[:, :2, 2] = shift
    return m


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack([x, y, torch.ones_like(x)], 1))


def _rotation(angle: Tensor) -> Tensor:
    c, s, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([c, s, zero, -s, c, zero, zero, zero, one], 1).reshape(-1, 3, 3)
