"""Distances between two sets of features, and the Inception Score. Features are float64 `[N, D]`, one row per image."""

from __future__ import annotations

import numpy as np

#: Precision and recall: a neighbourhood reaches to this nearest neighbour (Kynkäänniemi et al. 2019).
NEIGHBOURS = 3
#: The Inception Score is averaged over this number of parts.
SPLITS = 10
#: Rows of a table of all pairs that are in memory at once.
ROWS = 1024


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance of two sets of features as Gaussians (Heusel et al. 2017, FID).

        |mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))

    The trace of the square root is the sum of the square roots of the eigenvalues of `C_a^(1/2) C_b C_a^(1/2)`. This
    matrix is symmetric, so no complex numbers arise.

    Args:
        a: `[N, D]`.
        b: `[M, D]`.
    """
    mean_term = np.square(a.mean(0) - b.mean(0)).sum()
    cov_a, cov_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    values, vectors = np.linalg.eigh(cov_a)
    root_a = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root_a @ cov_b @ root_a), 0)).sum()
    return float(mean_term + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared maximum mean discrepancy with the kernel `k(x, y) = (x·y / D + 1)^3` (Bińkowski et al. 2018, KID).

    This is the unbiased estimate over all pairs. The paper averages over random subsets, with the same expectation. The
    value may be slightly negative for two similar sets.

    Args:
        a: `[N, D]`, N at least 2.
        b: `[M, D]`, M at least 2.
    """
    n, m = len(a), len(b)
    within_a = (_kernel_sum(a, a) - _kernel_diagonal_sum(a)) / (n * (n - 1))
    within_b = (_kernel_sum(b, b) - _kernel_diagonal_sum(b)) / (m * (m - 1))
    return float(within_a + within_b - 2 * _kernel_sum(a, b) / (n * m))


def precision_recall(generated: np.ndarray, real: np.ndarray, k: int = NEIGHBOURS) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019).

    The neighbourhood of a point reaches to its k-th nearest neighbour in the same set. Precision is the share of
    generated features in the neighbourhood of any real one. Recall is the share of real features in the neighbourhood
    of any generated one.

    Args:
        generated: `[N, D]`, N above k.
        real: `[M, D]`, M above k.
        k: Number of neighbours.

    Returns:
        Precision and recall, 0 to 1.

    Raises:
        ValueError: A set has at most k points.
    """
    if min(len(generated), len(real)) <= k:
        raise ValueError(f"precision and recall need more than {k} images a side")
    precision = _share_inside(generated, real, _squared_radii(real, k))
    recall = _share_inside(real, generated, _squared_radii(generated, k))
    return precision, recall


def inception_score(logits: np.ndarray, splits: int = SPLITS) -> tuple[float, float]:
    """Inception Score, `exp E KL(p(y|x) || p(y))` (Salimans et al. 2016).

    Args:
        logits: Class logits `[N, K]`, N at least `splits`.
        splits: Number of consecutive parts that are scored separately.

    Returns:
        Mean and standard deviation over the parts.

    Raises:
        ValueError: There are fewer images than parts.
    """
    if len(logits) < splits:
        raise ValueError(f"the Inception Score takes {splits} images or more")
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    scores = []
    for part in np.split(p, [i * len(p) // splits for i in range(1, splits)]):
        mean = part.mean(0)
        # A probability of 0 contributes 0 to the sum below, so its logarithm may be any finite number.
        log_ratio = np.log(np.where(part > 0, part, 1)) - np.log(np.where(mean > 0, mean, 1))
        scores.append(np.exp((part * log_ratio).sum(1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


def _kernel_sum(a: np.ndarray, b: np.ndarray) -> float:
    """Sum of k(x, y) over all pairs."""
    dimensions = a.shape[1]
    return sum(float(((a[i : i + ROWS] @ b.T / dimensions + 1) ** 3).sum()) for i in range(0, len(a), ROWS))


def _kernel_diagonal_sum(a: np.ndarray) -> float:
    """Sum of k(x, x)."""
    return float(((np.square(a).sum(1) / a.shape[1] + 1) ** 3).sum())


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`[N, M]`."""
    return np.maximum(np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T, 0)


def _squared_radii(points: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each point to its k-th nearest other point, `[N]`."""
    radii = []
    for i in range(0, len(points), ROWS):
        table = _squared_distances(points[i : i + ROWS], points)
        table[np.arange(len(table)), np.arange(i, i + len(table))] = np.inf  # a point is no neighbour of itself
        radii.append(np.partition(table, k - 1, axis=1)[:, k - 1])
    return np.concatenate(radii)


def _share_inside(points: np.ndarray, centres: np.ndarray, squared_radii: np.ndarray) -> float:
    """Share of the points that lie in the neighbourhood of any centre."""
    inside = 0
    for i in range(0, len(points), ROWS):
        is_near = _squared_distances(points[i : i + ROWS], centres) <= squared_radii
        inside += int(is_near.any(1).sum())
    return float(inside / len(points))
