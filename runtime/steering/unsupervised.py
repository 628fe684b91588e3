"""Directions in w that need no labels: SeFa and GANSpace."""

from __future__ import annotations

import numpy as np


def sefa(style_weight: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The directions in w that change the styles most, in closed form (Shen and Zhou 2021, equation 8).

    They are the eigenvectors of `weight.T @ weight` with the greatest eigenvalues.

    Args:
        style_weight: Affine layers that map w to styles, one below the other, `[S, w_dim]`.
        count: The number of directions, at most `w_dim`.

    Returns:
        Directions of unit length, float64 `[count, w_dim]`, and the share of the sum of all eigenvalues of each, `[count]`.
    """
    weight = style_weight.astype(np.float64)
    return _greatest(weight.T @ weight, count)


def principal_components(w: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The directions in which w varies most (Härkönen et al. 2020, GANSpace).

    Args:
        w: Latents of random z, `[N, w_dim]`.
        count: The number of directions, at most `w_dim`.

    Returns:
        Directions of unit length, float64 `[count, w_dim]`, and the share of the variance of each, `[count]`.
    """
    return _greatest(covariance(w), count)


def covariance(w: np.ndarray) -> np.ndarray:
    """The covariance of latents `[N, w_dim]`, float64 `[w_dim, w_dim]`."""
    centred = w - w.mean(0, dtype=np.float64)
    return centred.T @ centred / len(w)


def spreads(vectors: np.ndarray, w_covariance: np.ndarray) -> np.ndarray:
    """The standard deviation of `vectors @ w`, `[count]`, for vectors `[count, w_dim]`."""
    return np.sqrt(np.maximum(((vectors @ w_covariance) * vectors).sum(1), 0))


def _greatest(matrix: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The eigenvectors of a symmetric matrix with the greatest eigenvalues, and the share of each in the trace.

    The sign of an eigenvector is free. Its greatest component is positive here, so that the result does not depend on a library.
    """
    values, vectors = np.linalg.eigh(matrix)
    chosen = vectors.T[::-1][:count]
    greatest = np.take_along_axis(chosen, np.abs(chosen).argmax(1)[:, None], 1)
    total = max(float(values.sum()), np.finfo(np.float64).tiny)
    return chosen * np.sign(greatest), np.maximum(values[::-1][:count], 0) / total
