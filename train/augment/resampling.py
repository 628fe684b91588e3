"""Carrying out a geometric transformation: exactly where pixels meet pixels, else through a 2x finer image.

Both extend the image by reflection. Everything is linear in the image, and differentiable in it to any order.
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

#: Pixels of the original that the up- and the downsampling filter reach to a side, each 12 taps on the finer grid.
REACH = 3
#: Finer pixels by which SYM6 moves smooth content, as its taps are not quite symmetric. Positions on the finer grid count
#: from there, or a mirrored image would be displaced.
DELAY = 5.5 - float(np.arange(12) @ SYM6 / SYM6.sum())


def blit(images: Tensor, matrices: Tensor) -> Tensor:
    """Move whole pixels: `images` `[N, C, S, S]` by `[N, 3, 3]` matrices of flips, quarter turns and whole shifts. Exact."""
    n, channels, size, _ = images.shape
    centre = (size - 1) / 2
    at = torch.arange(size, dtype=torch.float64) - centre
    y, x = torch.meshgrid(at, at, indexing="ij")
    outputs = torch.stack([x, y, torch.ones_like(x)]).reshape(3, -1)
    sources = ((matrices.inverse() @ outputs)[:, :2] + centre).round().long()
    period = max(2 * (size - 1), 1)
    sources = sources.remainder(period)
    sources = torch.where(sources < size, sources, period - sources)
    flat = (sources[:, 1] * size + sources[:, 0]).to(images.device)
    return images.flatten(2).gather(2, flat[:, None].expand(n, channels, -1)).reshape(images.shape)


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Transform `images` `[N, C, S, S]` by `[N, 3, 3]` matrices in centred pixel coordinates (Karras et al. 2020b, appendix B).

    Reflection padding, 2x upsampling by the wavelet filter SYM6, bilinear lookup, and 2x downsampling by the same filter,
    which undo each other where the lookup is the identity. Images whose matrix is the identity are returned as they are.
    """
    size = images.shape[2]
    back = matrices.inverse()
    margin = _margin(back, size)
    padded = F.pad(images, [margin] * 4, mode="reflect")
    fine = _upsample(padded)
    looked_up = _Lookup.apply(fine, _grid(back, size + 2 * REACH, fine.shape[2]).to(fine))
    result = _downsample(looked_up)[:, :, REACH:-REACH, REACH:-REACH]
    untouched = (matrices == torch.eye(3, dtype=matrices.dtype)).all(2).all(1).to(images.device)
    return torch.where(untouched[:, None, None, None], images, result)


def _margin(back: Tensor, size: int) -> int:
    """How far any pixel that is needed lies outside of the image; reflection reaches one side length, the rest is black."""
    edge = (size - 1) / 2 + REACH
    corners = torch.tensor([[-edge, edge, -edge, edge], [-edge, -edge, edge, edge], [1, 1, 1, 1]], dtype=back.dtype)
    reach = float((back @ corners)[:, :2].abs().max()) - (size - 1) / 2
    return min(max(math.ceil(reach) + REACH + 1, 0), size - 1)


def _grid(back: Tensor, size: int, fine_size: int) -> Tensor:
    """`[N, 2 size, 2 size, 2]`: where in the finer image each finer pixel comes from, -1 to 1 from edge to edge."""
    at = (torch.arange(2 * size, dtype=back.dtype) + 0.5 - DELAY) / 2 - size / 2
    y, x = torch.meshgrid(at, at, indexing="ij")
    outputs = torch.stack([x, y, torch.ones_like(x)]).reshape(3, -1)
    sources = ((back @ outputs)[:, :2] * 2 + DELAY) * (2 / fine_size)
    return sources.transpose(1, 2).reshape(-1, 2 * size, 2 * size, 2)


@functools.cache
def _taps(reverse: bool, gain: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    taps = np.ascontiguousarray(SYM6[::-1] if reverse else SYM6) * gain
    return torch.from_numpy(taps).to(device, dtype)


def _upsample(x: Tensor) -> Tensor:
    f = _taps(True, math.sqrt(2), x.device, x.dtype)
    x = upfirdn2d(x, f[None], up=(1, 2), padding=(0, 0, 6, 5))
    return upfirdn2d(x, f[:, None], up=(2, 1), padding=(6, 5, 0, 0))


def _downsample(x: Tensor) -> Tensor:
    f = _taps(False, math.sqrt(0.5), x.device, x.dtype)
    x = upfirdn2d(x, f[None], down=(1, 2), padding=(0, 0, 5, 5))
    return upfirdn2d(x, f[:, None], down=(2, 1), padding=(5, 5, 0, 0))


class _Lookup(torch.autograd.Function):
    """`grid_sample` as a linear map of the image alone; PyTorch differentiates its own only once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = x.shape
        return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    @staticmethod
    def backward(ctx: Any, *dy: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        return _Scatter.apply(dy[0], grid, ctx.shape), None


class _Scatter(torch.autograd.Function):
    """The transpose of `_Lookup`."""

    @staticmethod
    def forward(ctx: Any, dy: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        like = dy.new_empty(1).expand(shape)  # only its shape counts: the image enters no gradient with respect to itself
        dx: Tensor = torch.ops.aten.grid_sampler_2d_backward(dy, like, grid, 0, 0, False, (True, False))[0]
        return dx

    @staticmethod
    def backward(ctx: Any, *ddx: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return _Lookup.apply(ddx[0], grid), None, None
