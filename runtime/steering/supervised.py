"""Directions from scores of images: of a user, of a classifier, or 1 and 0 for two sets of pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stylert.core.errors import InputError
from stylert.core.ridge import ridge_regression
from stylert.runtime.steering.unsupervised import covariance, spreads

#: The fewest scores from which a direction is found
MIN_SCORES = 8
#: The most scores, which bounds the memory: 400 MB for latents of 512 numbers
MAX_SCORES = 100_000


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
    """The direction in w along which a score rises, by ridge regression (`core.ridge`).

    Args:
        w: Latents of the images, `[N, w_dim]`.
        scores: `[N]`.

    Raises:
        InputError: There are too few or too many scores, or all are the same.
    """
    fit = ridge_regression(w, checked_scores(w, scores))
    length = float(np.linalg.norm(fit.weights))
    if length == 0:
        raise InputError("these scores do not depend on w: no direction changes them")
    return ScoreDirection(fit.weights / length, fit.correlation)


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
