"""Random parameters of augmentations: one value per image, replaced by a neutral value with probability 1 - p.

They are drawn on the CPU in float64, as they are few. So they are the same for every device, and code that depends on
them, such as the width of a margin, needs no copy from the device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def with_probability(p: float, values: Tensor, neutral: float) -> Tensor:
    """`values` `[N, ...]`, where each image's values are replaced by `neutral` with probability 1 - p."""
    applied = torch.rand(len(values)) < p
    applied = applied.reshape(-1, *[1] * (values.ndim - 1))
    return torch.where(applied, values, torch.full_like(values, neutral))


def uniform(low: float, high: float, *shape: int) -> Tensor:
    """Uniform values in [low, high)."""
    return torch.rand(shape, dtype=torch.float64) * (high - low) + low


def normal(std: float, *shape: int) -> Tensor:
    """Normal values with mean 0 and this standard deviation."""
    return torch.randn(shape, dtype=torch.float64) * std


def log_normal(std: float, *shape: int) -> Tensor:
    """Positive factors whose base-2 logarithm is normal with this standard deviation."""
    return torch.exp(normal(std * math.log(2), *shape))


def integers(low: int, high: int, *shape: int) -> Tensor:
    """Uniform integers from `low` to `high`, both included, as float64."""
    return torch.randint(low, high + 1, shape).double()
