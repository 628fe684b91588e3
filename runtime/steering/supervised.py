"""Directions from scores of images: of a user, of a classifier, or 1 and 0 for two sets of pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stylert.core.errors import InputError
from stylert.runtime.steering.unsupervised import covariance, spreads

#: The fewest scores from which a direction is found
MIN_SCORES = 8
#: The most scores, which bounds the memory: 400 MB for latents of 512 numbers
MAX_SCORES = 100_000
#: Strengths of the regularisation that are tried, relative to the greatest eigenvalue
RIDGES = np.geomspace(1e-7, 1e2, 37)


@dataclass(frozen=True)
class ScoreDirection:
    """A direction along which a score rises.

    Attributes:
        vector: Of unit length, float64 `[w_dim]`.
        correlation: Between the scores and their predictions, each from the other images alone, as differences from the mean of
            those. It says how well w tells the score: 1 is exact, 0 is chance.
    """

    vector: np.ndarray
    correlation: float


def score_direction(w: np.ndarray, scores: np.ndarray) -> ScoreDirection:
    """The direction in w along which a score rises, by ridge regression.

    The regularisation is the one with the least error when each image is left out (Golub et al. 1979). The residual of an image
    that is left out is that of the whole fit, divided by 1 minus the image's leverage. So one eigen-decomposition is enough.

    Args:
        w: Latents of the images, `[N, w_dim]`.
        scores: `[N]`.

    Raises:
        InputError: There are too few or too many scores, or all are the same.
    """
    y = checked_scores(w, scores)
    x = w - w.mean(0, dtype=np.float64)
    values, vectors = np.linalg.eigh(x.T @ x)
    no_direction = InputError("these scores do not depend on w: no direction changes them")
    if values[-1] <= np.finfo(np.float32).tiny:
        raise no_direction
    projected = x @ vectors  # [N, w_dim]
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
    vector = vectors @ shrunk
    length = float(np.linalg.norm(vector))
    if length == 0:
        raise no_direction
    # The mean of the other scores is lower where a score is high. So the bare predictions of chance would have a correlation of -1.
    others = -y / (len(y) - 1)
    return ScoreDirection(vector / length, _correlation(y, y - residual - others))


def style_correlations(w: np.ndarray, scores: np.ndarray, style_weight: np.ndarray) -> np.ndarray:
    """How well each style tells a score (Wu et al. 2021, section 4, with correlations in place of normalised differences).

    Args:
        w: Latents of the images, `[N, w_dim]`.
        scores: `[N]`.
        style_weight: Affine layers of the styles, `[S, w_dim]`.

    Returns:
        The correlation of each style with the scores, float64 `[S]`. A style that does not vary has 0.

    Raises:
        InputError: As `score_direction`.
    """
    y = checked_scores(w, scores)
    x = w - w.mean(0, dtype=np.float64)
    weight = style_weight.astype(np.float64)
    common = weight @ (x.T @ y / len(y))
    scale = spreads(weight, covariance(w)) * y.std()
    return np.divide(common, scale, out=np.zeros_like(common), where=scale > 1e-12 * scale.max(initial=0))


def checked_scores(w: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The scores as float64 below 1 in size, centred. Raises InputError as `score_direction`.

    Neither a direction nor a correlation depends on the size of the scores, but the squares of 1e200 overflow.
    """
    y = np.asarray(scores, np.float64)
    if len(y) != len(w) or not MIN_SCORES <= len(y) <= MAX_SCORES:
        raise InputError(f"a direction needs {MIN_SCORES} to {MAX_SCORES:,} scores, one for each image, not {len(y)}")
    if not np.isfinite(y).all() or y.min() == y.max():
        raise InputError("a direction needs scores that differ, and are finite numbers")
    y = np.ldexp(y, -np.frexp(np.abs(y).max())[1])  # by a power of two, so exactly
    return y - y.mean()


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), np.finfo(np.float64).tiny))
