"""How an augmentation is drawn: for each image alone, with probability p, on the CPU.

Parameters are a few numbers per image. Drawn on the CPU they are the same on every device, and what depends on them, such
as how far to pad, is known without waiting for the device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sometimes(p: float, values: Tensor, neutral: float) -> Tensor:
    """`values` `[N, ...]`, each sample's replaced by `neutral` with probability 1 - p."""
    chosen = torch.rand(len(values)) < p
    return torch.where(chosen.reshape(-1, *[1] * (values.ndim - 1)), values, torch.full_like(values, neutral))


def uniform(low: float, high: float, *shape: int) -> Tensor:
    return torch.rand(shape, dtype=torch.float64) * (high - low) + low


def normal(deviation: float, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64) * deviation


def log_normal(octaves: float, *shape: int) -> Tensor:
    """Factors whose base-2 logarithm is normal with this deviation."""
    return torch.exp(normal(octaves * math.log(2), *shape))


def integers(low: int, high: int, *shape: int) -> Tensor:
    """Uniform integers from `low` to `high`, both included, as float64."""
    return torch.randint(low, high + 1, shape).double()
