"""The groups `blit` and `geom`: random geometric transformations (Karras et al. 2020b, appendix B, figure 24).

All transformations of an image make one matrix, so that the image is resampled once. Coordinates are pixels from the
centre of the image, x to the right and y down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stylert.train.augment.random_parameters import integers, log_normal, normal, uniform, with_probability

# The names of these constants are those of the official code.
XINT_MAX = 0.125  # share of width and height
SCALE_STD = 0.2
ANISO_STD = 0.2
XFRAC_STD = 0.125  # share of width and height


@dataclass(frozen=True)
class Geometry:
    """Random transformations of N images, in the order in which they are applied; float64 on the CPU.

    The names are those of the official code. The first three are the group `blit`, the others the group `geom`.

    Attributes:
        xflip: `[N]`, 0 or 1. 1 mirrors left and right.
        rotate90: `[N]`, turns by 90 degrees, 0 to 3.
        xint: `[N, 2]`, shift by whole pixels (x, y).
        scale: `[N]`, factor in both directions.
        pre_rotation: `[N]`, rotation before `aniso`, in radians.
        aniso: `[N]`, factor in x and divisor in y.
        post_rotation: `[N]`, rotation after `aniso`, in radians.
        xfrac: `[N, 2]`, shift in pixels (x, y).
    """

    xflip: Tensor
    rotate90: Tensor
    xint: Tensor
    scale: Tensor
    pre_rotation: Tensor
    aniso: Tensor
    post_rotation: Tensor
    xfrac: Tensor

    def matrices(self) -> Tensor:
        """Float64 `[N, 3, 3]`, from homogeneous coordinates of the original image to those of the augmented one."""
        return (
            _translation(self.xfrac)
            @ _rotation(self.post_rotation)
            @ _scaling(self.aniso, 1 / self.aniso)
            @ _rotation(self.pre_rotation)
            @ _scaling(self.scale, self.scale)
            @ _translation(self.xint)
            @ _rotation(self.rotate90 * (math.pi / 2))
            @ _scaling(1 - 2 * self.xflip, torch.ones_like(self.xflip))
        )


def random_geometry(n: int, size: int | tuple[int, int], p: float, blit: bool, geom: bool) -> Geometry:
    """Random transformations of `n` images.

    A quarter turn would leave half of a long image outside. So images that are not square have half turns alone.

    Args:
        n: Number of images.
        size: Side of square images in pixels, or width and height.
        p: Probability of each transformation.
        blit: Whether the group `blit` is used. Otherwise its transformations are neutral.
        geom: Whether the group `geom` is used.
    """
    p_blit, p_geom = p * blit, p * geom
    width, height = (size, size) if isinstance(size, int) else size
    sides, turns = torch.tensor([width, height], dtype=torch.float64), 1 if width == height else 2
    # At least one of the two rotations is applied with probability p.
    p_rotation = 1 - math.sqrt(1 - p_geom)
    return Geometry(
        xflip=with_probability(p_blit, integers(0, 1, n), 0),
        rotate90=with_probability(p_blit, integers(0, 3, n) * turns % 4, 0),
        xint=with_probability(p_blit, (uniform(-1, 1, n, 2) * (XINT_MAX * sides)).round(), 0),
        scale=with_probability(p_geom, log_normal(SCALE_STD, n), 1),
        pre_rotation=with_probability(p_rotation, uniform(-math.pi, math.pi, n), 0),
        aniso=with_probability(p_geom, log_normal(ANISO_STD, n), 1),
        post_rotation=with_probability(p_rotation, uniform(-math.pi, math.pi, n), 0),
        xfrac=with_probability(p_geom, normal(XFRAC_STD, n, 2) * sides, 0),
    )


def _translation(shift: Tensor) -> Tensor:
    m = torch.eye(3, dtype=torch.float64).repeat(len(shift), 1, 1)
    m[:, :2, 2] = shift
    return m


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack([x, y, torch.ones_like(x)], 1))


def _rotation(angle: Tensor) -> Tensor:
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([cos, sin, zero, -sin, cos, zero, zero, zero, one], 1).reshape(-1, 3, 3)
