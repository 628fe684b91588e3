"""One check of a kernel: its error, and the random operands that all checks draw."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

#: Largest relative error of a kernel, by dtype of its activations.
MAX_ERROR = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2}

#: The same for long sums of FP8. It is between the rounding of the result and the error of a sum that is kept in 14 bits.
MAX_FP8_SUM_ERROR = 1e-3


@dataclass(frozen=True)
class Limits:
    """The largest random shapes."""

    samples: int
    channels: int
    pixels: int  # of a side


GPU_LIMITS = Limits(5, 150, 60)
INTERPRETER_LIMITS = Limits(2, 12, 4)


@dataclass(frozen=True)
class Check:
    """The error of one kernel on one random case."""

    kernel: str
    dtype: str
    case: str
    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """False for NaN too."""
        return bool(self.error <= self.tolerance)


@dataclass(frozen=True)
class PlannedCheck:
    """A check to run on random operands.

    Attributes:
        kernel: The kernel's name.
        dtype: Dtype of its activations.
        run: From random numbers to one check or more.
    """

    kernel: str
    dtype: str
    run: Callable[[np.random.Generator], Check | Iterable[Check]]


def limits_of(device: str) -> Limits:
    """The largest shapes on a device."""
    return INTERPRETER_LIMITS if device == "cpu" else GPU_LIMITS


def relative_error(y: Any, reference: Any, unclamped: Any = None, terms: Any = None) -> float:
    """The largest error of `y` relative to the largest value of `reference`.

    Args:
        y: A result.
        reference: float64, of the same shape.
        unclamped: The reference before its clamp, which then sets the scale.
        terms: Sums of the sizes of the terms. If terms cancel, a fifth of the largest sum sets the scale.
    """
    scale = (reference if unclamped is None else unclamped).abs().max().clamp(min=1e-3)
    if terms is not None:
        scale = scale.maximum(0.2 * terms.max())
    return float((y.double() - reference).abs().max() / scale)


def worst(errors: Sequence[float]) -> float:
    """The largest error; NaN where one is NaN."""
    return float(np.max(errors))


def normal_tensors(rng: np.random.Generator, device: str) -> Callable[..., Any]:
    """A function from a shape to a float64 tensor of normal numbers."""
    import torch

    return lambda *shape: torch.from_numpy(rng.standard_normal(shape)).to(device)


def random_sizes(rng: np.random.Generator, *limits: int) -> tuple[int, ...]:
    """A number from 1 to each limit."""
    return tuple(int(rng.integers(1, limit + 1)) for limit in limits)
