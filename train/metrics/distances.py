"""Distances between two sets of features `[N, D]`, float64: Fréchet, kernel, precision and recall; and the Inception Score."""

from __future__ import annotations

import numpy as np

#: Neighbours whose distance is the radius of a point's neighbourhood (Kynkäänniemi et al. 2019).
NEIGHBOURS = 3
#: Parts of the images that the Inception Score is averaged over.
SPLITS = 10
#: Rows of a pairwise table that are in memory at once.
ROWS = 1024


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """`|mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))` of features `[N, D]`, as Gaussians.

    The trace of the square root is the sum of the roots of the eigenvalues of `C_a^(1/2) C_b C_a^(1/2)`, which is symmetric
    and needs no complex numbers.
    """
    mean = np.square(a.mean(0) - b.mean(0)).sum()
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(np.atleast_2d(cov_a))
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ np.atleast_2d(cov_b) @ root), 0)).sum()
    return float(mean + np.trace(np.atleast_2d(cov_a)) + np.trace(np.atleast_2d(cov_b)) - 2 * cross)


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared maximum mean discrepancy under the kernel `(x·y / D + 1)^3`, unbiased (Bińkowski et al. 2018, KID).

    Over all pairs at once, where the paper averages over subsets: the expectation is the same, and nothing is drawn. It may
    be slightly negative when the sets are alike. Needs two features a side.
    """
    n, m = len(a), len(b)
    within_a = (_kernel_sum(a, a) - ((np.square(a).sum(1) / a.shape[1] + 1) ** 3).sum()) / (n * (n - 1))
    within_b = (_kernel_sum(b, b) - ((np.square(b).sum(1) / b.shape[1] + 1) ** 3).sum()) / (m * (m - 1))
    return float(within_a + within_b - 2 * _kernel_sum(a, b) / (n * m))


def precision_recall(generated: np.ndarray, real: np.ndarray, k: int = NEIGHBOURS) -> tuple[float, float]:
    """The share of generated features near real ones, and of real ones near generated ones (Kynkäänniemi et al. 2019).

    Near is: within the distance from some point of the other set to its k-th nearest neighbour in that set. ValueError when
    a set has no k neighbours.
    """
    if min(len(generated), len(real)) <= k:
        raise ValueError(f"precision and recall need more than {k} images a side")
    return _covered(generated, real, _radii(real, k)), _covered(real, generated, _radii(generated, k))


def inception_score(logits: np.ndarray, splits: int = SPLITS) -> tuple[float, float]:
    """`exp E KL(p(y|x) | p(y))` of class logits `[N, K]`: mean and deviation over `splits` parts (Salimans et al. 2016).

    The parts are consecutive. ValueError when there are fewer images than parts.
    """
    if len(logits) < splits:
        raise ValueError(f"the Inception Score takes {splits} images or more")
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    scores = []
    for part in np.split(p, [i * len(p) // splits for i in range(1, splits)]):
        mean = part.mean(0)
        log_ratio = np.log(np.where(part > 0, part, 1)) - np.log(np.where(mean > 0, mean, 1))
        scores.append(np.exp((part * log_ratio).sum(1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


def _kernel_sum(a: np.ndarray, b: np.ndarray) -> float:
    return sum(float(((a[i : i + ROWS] @ b.T / a.shape[1] + 1) ** 3).sum()) for i in range(0, len(a), ROWS))


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.maximum(np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T, 0)


def _radii(points: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each point to its k-th nearest other point."""
    radii = []
    for i in range(0, len(points), ROWS):
        table = _squared_distances(points[i : i + ROWS], points)
        table[np.arange(len(table)), np.arange(i, i + len(table))] = np.inf  # not itself
        radii.append(np.partition(table, k - 1, axis=1)[:, k - 1])
    return np.concatenate(radii)


def _covered(points: np.ndarray, centres: np.ndarray, radii: np.ndarray) -> float:
    inside = [(_squared_distances(points[i : i + ROWS], centres) <= radii).any(1).sum() for i in range(0, len(points), ROWS)]
    return float(sum(inside) / len(points))
