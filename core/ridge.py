"""Ridge regression whose strength is the one with the least error when each observation is left out (Golub et al. 1979)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Strengths of the regularisation that are tried, relative to the greatest eigenvalue
RIDGES = np.geomspace(1e-7, 1e2, 37)


@dataclass(frozen=True)
class Ridge:
    """A linear function that predicts a value.

    Attributes:
        weights: float64 `[D]`; zeros if the inputs do not vary.
        constant: Its value at 0.
        correlation: Between the values and their predictions, each from the other observations alone, as differences from the mean of
            those. 1 is exact, 0 is chance.
    """

    weights: np.ndarray
    constant: float
    correlation: float


def ridge_regression(x: np.ndarray, y: np.ndarray) -> Ridge:
    """Fit a linear function of inputs to values.

    The residual of an observation that is left out is that of the whole fit, divided by 1 minus the observation's leverage. So one
    eigen-decomposition is enough.

    Args:
        x: `[N, D]`.
        y: `[N]`, finite.
    """
    mean, centre = x.mean(0, dtype=np.float64), float(y.mean())
    x, y = x - mean, y - centre
    values, vectors = np.linalg.eigh(x.T @ x)
    if values[-1] <= np.finfo(np.float32).tiny:
        return Ridge(np.zeros(x.shape[1]), centre, 0.0)
    projected = x @ vectors  # [N, D]
    squares, products = np.square(projected), projected.T @ y
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    for ridge in RIDGES * float(values[-1]):
        shrunk = products / (np.maximum(values, 0) + ridge)
        leverage = squares @ (1 / (np.maximum(values, 0) + ridge)) + 1 / len(y)
        residual = (y - projected @ shrunk) / np.maximum(1 - leverage, 1e-9)
        error = float(np.square(residual).mean())
        if best is None or error < best[0]:
            best = error, shrunk, residual
    assert best is not None
    _, shrunk, residual = best
    weights = vectors @ shrunk
    # The mean of the other values is lower where a value is high. So the bare predictions of chance would have a correlation of -1.
    others = -y / (len(y) - 1)
    return Ridge(weights, centre - float(mean @ weights), correlation(y, y - residual - others))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """The correlation of two series `[N]`, and 0 where one of them does not vary."""
    a, b = a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / scale if scale > np.finfo(np.float64).tiny else 0.0
