"""JPEG as a differentiable function: the transform, its quantisation, and the chroma at half the resolution.

The steps are those of a baseline encoder and decoder (ITU-T T.81, JFIF). Rounding passes the gradient through unchanged.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 8
#: Pixels that one block of chroma covers along an axis, since both chroma planes are halved.
UNIT = 2 * BLOCK
#: Quantisation of luma and chroma at quality 50, row by row (T.81, tables K.1 and K.2).
LUMA = """
    16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
    18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
CHROMA = """
    17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
    99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99"""
#: RGB to luma and both differences of colour (JFIF 1.02).
TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def jpeg(pixels: Tensor, quality: int) -> Tensor:
    """The pixels that a JPEG file of this quality gives back, with 4:2:0 chroma.

    Args:
        pixels: `[N, 3, H, W]` from 0 to 255.
        quality: 1 to 100, on the scale of libjpeg.

    Returns:
        `[N, 3, H, W]`, whole numbers from 0 to 255.
    """
    height, width = pixels.shape[2:]
    padding = (0, -width % UNIT, 0, -height % UNIT)
    padded = F.pad(rounded(pixels), padding, mode="replicate")
    matrix = torch.tensor(TO_YCC, device=pixels.device)
    ycc = rounded(torch.einsum("dc,nchw->ndhw", matrix, padded))
    luma = _through_blocks(ycc[:, :1] - 128, _table(LUMA, quality).to(pixels.device))
    chroma = _through_blocks(_halved(ycc[:, 1:]), _table(CHROMA, quality).to(pixels.device))
    chroma = F.interpolate(bounded(chroma, -128, 127), scale_factor=2, mode="bilinear", align_corners=False)
    decoded = torch.cat([bounded(luma + 128, 0, 255), rounded(chroma)], 1)
    rgb = torch.einsum("cd,ndhw->nchw", torch.linalg.inv(matrix), decoded)
    return bounded(rgb, 0, 255)[:, :, :height, :width]


def rounded(x: Tensor) -> Tensor:
    """The nearest whole numbers, with the gradient of `x` itself."""
    return x + (x.round() - x).detach()


def bounded(x: Tensor, low: float, high: float) -> Tensor:
    """The nearest whole numbers within bounds, with the gradient of `x` itself, also beyond the bounds."""
    return x + (x.round().clamp(low, high) - x).detach()


def _halved(planes: Tensor) -> Tensor:
    """The means of 2x2 whole numbers. Means that end in a half are rounded down and up in turn along a row, as libjpeg does it."""
    means = F.avg_pool2d(planes, 2)
    bias = torch.tensor([0.25, 0.5], device=planes.device).repeat(means.shape[3] // 2)
    return means + ((means + bias).floor() - means).detach()


def _through_blocks(plane: Tensor, table: Tensor) -> Tensor:
    """Quantise a plane `[N, C, H, W]` around zero in blocks of 8x8 coefficients, and transform it back, rounded."""
    n, c, height, width = plane.shape
    dct = _dct().to(plane.device)
    blocks = plane.reshape(n, c, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(3, 4)
    coefficients = dct @ blocks @ dct.T
    restored = dct.T @ (rounded(coefficients / table) * table) @ dct
    return rounded(restored.transpose(3, 4).reshape(n, c, height, width))


@cache
def _dct() -> Tensor:
    """The orthonormal DCT-II of eight values, `[8, 8]`."""
    rows = torch.arange(BLOCK, dtype=torch.float64)[:, None]
    columns = torch.arange(BLOCK, dtype=torch.float64)[None]
    basis = torch.cos(math.pi * rows * (2 * columns + 1) / (2 * BLOCK)) * math.sqrt(2 / BLOCK)
    basis[0] /= math.sqrt(2)
    return basis.float()


@cache
def _table(base: str, quality: int) -> Tensor:
    """The divisors of the coefficients at a quality, `[8, 8]`, by libjpeg's rule."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    values = [min(max((int(word) * percent + 50) // 100, 1), 255) for word in base.split()]
    return torch.tensor(values, dtype=torch.float32).reshape(BLOCK, BLOCK)
