"""Applies geometric transformations to images: `blit` moves whole pixels, `warp` upsamples 2x, looks up bilinearly and downsamples 2x.

Beyond its edges, the image is extended by reflection. The result is a linear function of the image, differentiable to
any order.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stylert.plugins.ops import upfirdn2d
from stylert.train.augment.wavelets import SYM6

#: Radius of both filters in pixels of the original image: 12 taps on the finer grid.
FILTER_RADIUS = 3
#: Shift of smooth content by SYM6 in pixels of the finer grid, because its taps are not quite symmetric. Positions on
#: the finer grid include it. Otherwise a mirrored image would be displaced.
FILTER_SHIFT = 5.5 - float(np.arange(12) @ SYM6 / SYM6.sum())


def blit(images: Tensor, matrices: Tensor) -> Tensor:
    """Move whole pixels, exactly.

    Args:
        images: `[N, C, H, W]`.
        matrices: `[N, 3, 3]` of `Geometry`, made of flips, quarter turns and whole shifts.
    """
    n, channels, height, width = images.shape
    size = torch.tensor([width, height])[:, None]
    centre = (size.double() - 1) / 2
    x, y = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2 for side in (width, height))
    sources = ((matrices.inverse() @ _homogeneous(x, y))[:, :2] + centre).round().long()
    # Reflection repeats with this period; its second half runs backwards.
    period = (2 * (size - 1)).clamp_min(1)
    sources = sources.remainder(period)
    sources = torch.where(sources < size, sources, period - sources)
    flat = (sources[:, 1] * width + sources[:, 0]).to(images.device)
    return images.flatten(2).gather(2, flat[:, None].expand(n, channels, -1)).reshape(images.shape)


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Transform images by any affine maps (Karras et al. 2020b, appendix B).

    The steps are reflection padding, 2x upsampling with the wavelet filter SYM6, bilinear lookup, and 2x downsampling
    with the same filter. Up- and downsampling cancel where the lookup is the identity.

    Args:
        images: `[N, C, H, W]`.
        matrices: `[N, 3, 3]` of `Geometry`. Images with the identity matrix stay bit for bit.
    """
    height, width = images.shape[2:]
    inverse = matrices.inverse()
    margin_x, margin_y = _margins(inverse, width, height)
    padded = F.pad(images, [margin_x, margin_x, margin_y, margin_y], mode="reflect")
    fine = _upsample(padded)
    more = 2 * FILTER_RADIUS
    looked_up = _Lookup.apply(fine, _grid(inverse, (width + more, height + more), (fine.shape[3], fine.shape[2])).to(fine))
    result = _downsample(looked_up)[:, :, FILTER_RADIUS:-FILTER_RADIUS, FILTER_RADIUS:-FILTER_RADIUS]
    untouched = (matrices == torch.eye(3, dtype=matrices.dtype)).all(2).all(1).to(images.device)
    return torch.where(untouched[:, None, None, None], images, result)


def _homogeneous(x_positions: Tensor, y_positions: Tensor) -> Tensor:
    """Homogeneous coordinates `[3, h * w]` of a grid, row by row, with these positions `[w]` in x and `[h]` in y."""
    y, x = torch.meshgrid(y_positions, x_positions, indexing="ij")
    return torch.stack([x, y, torch.ones_like(x)]).reshape(3, -1)


def _margins(inverse: Tensor, width: int, height: int) -> tuple[int, int]:
    """Padding in x and y for all pixels that the lookup reads. At most one side is reflected, and beyond it is black.

    Both directions of a square image have the larger of the two.
    """
    x, y = (width - 1) / 2 + FILTER_RADIUS, (height - 1) / 2 + FILTER_RADIUS
    corners = torch.tensor([[-x, x, -x, x], [-y, -y, y, y], [1, 1, 1, 1]], dtype=inverse.dtype)
    reached = (inverse @ corners)[:, :2].abs().amax((0, 2)).tolist()
    if width == height:
        reached = [max(reached)] * 2
    outside = [far - (side - 1) / 2 for far, side in zip(reached, (width, height), strict=True)]
    margin_x, margin_y = (
        min(max(math.ceil(far) + FILTER_RADIUS + 1, 0), side - 1) for far, side in zip(outside, (width, height), strict=True)
    )
    return margin_x, margin_y


def _grid(inverse: Tensor, size: tuple[int, int], fine_size: tuple[int, int]) -> Tensor:
    """Lookup positions `[N, 2 h, 2 w, 2]` (x, y) in the finer image, -1 to 1 from edge to edge. Sizes are width and height."""
    x, y = ((torch.arange(2 * side, dtype=inverse.dtype) + 0.5 - FILTER_SHIFT) / 2 - side / 2 for side in size)
    scale = torch.tensor([[2 / side] for side in fine_size], dtype=inverse.dtype)
    sources = ((inverse @ _homogeneous(x, y))[:, :2] * 2 + FILTER_SHIFT) * scale
    return sources.transpose(1, 2).reshape(-1, 2 * size[1], 2 * size[0], 2)


def _upsample(x: Tensor) -> Tensor:
    f = _taps(True, math.sqrt(2), x.device, x.dtype)
    x = upfirdn2d(x, f[None], up=(1, 2), padding=(0, 0, 6, 5))
    return upfirdn2d(x, f[:, None], up=(2, 1), padding=(6, 5, 0, 0))


def _downsample(x: Tensor) -> Tensor:
    f = _taps(False, math.sqrt(0.5), x.device, x.dtype)
    x = upfirdn2d(x, f[None], down=(1, 2), padding=(0, 0, 5, 5))
    return upfirdn2d(x, f[:, None], down=(2, 1), padding=(5, 5, 0, 0))


@functools.cache
def _taps(reverse: bool, gain: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    taps = np.ascontiguousarray(SYM6[::-1] if reverse else SYM6) * gain
    return torch.from_numpy(taps).to(device, dtype)


class _Lookup(torch.autograd.Function):
    """`grid_sample` as a function of the image, differentiable to any order. PyTorch's own has one derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = x.shape
        return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    @staticmethod
    def backward(ctx: Any, *dy: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        return _LookupTranspose.apply(dy[0], grid, ctx.shape), None


class _LookupTranspose(torch.autograd.Function):
    """The transpose of `_Lookup`: its gradient with respect to the image."""

    @staticmethod
    def forward(ctx: Any, dy: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        # PyTorch's function takes the image for its shape alone, as the image itself enters no such gradient.
        image = dy.new_empty(1).expand(shape)
        dx: Tensor = torch.ops.aten.grid_sampler_2d_backward(dy, image, grid, 0, 0, False, (True, False))[0]
        return dx

    @staticmethod
    def backward(ctx: Any, *ddx: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return _Lookup.apply(ddx[0], grid), None, None
