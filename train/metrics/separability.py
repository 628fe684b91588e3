"""Linear separability of a latent space (Karras et al. 2018, section 4.2).

A classifier finds attributes Y in generated images. A linear support vector machine predicts each attribute from the
latent of the image, and X is its prediction.

    separability = exp( sum over attributes of H(Y | X) )

H is the conditional entropy in nats. The result is 1 if a hyperplane in latent space separates every attribute, and
larger otherwise.
"""

from __future__ import annotations

import numpy as np

#: Weight of the squared hinge loss beside half the squared norm of the hyperplane.
HINGE = 1.0
#: Newton's steps, at most. They end where one lowers the loss by less than this share, or not at all.
ITERATIONS = 200
TOLERANCE = 1e-12
#: The shortest part of a step that is tried
SHORTEST = 2.0**-30


def linear_separability(latents: np.ndarray, margins: np.ndarray, rare: bool = False) -> float:
    """Linear separability of attributes, each on the half of the images where the classifier is surest.

    Args:
        latents: `[N, D]`.
        margins: `[N, A]` of the images of these latents. Positive where the classifier finds the attribute, and of
            larger magnitude where it is surer.
        rare: False takes the surest half of all images, as in the paper. These images lack an attribute that few
            images have. True takes the surest half of the images with the attribute, and of those without it.

    Raises:
        ValueError: The shapes differ, or there are fewer than four images.
    """
    if latents.ndim != 2 or margins.ndim != 2 or len(latents) != len(margins) or len(latents) < 4:
        raise ValueError(
            f"latents {list(latents.shape)} and margins {list(margins.shape)} must be of the same four or more images"
        )
    x = standardised(latents)
    total = 0.0
    for margin in margins.T:
        surest = surest_half(margin, rare)
        y = margin[surest] > 0
        if y.all() or not y.any():
            continue  # its entropy is zero
        total += conditional_entropy(svm_predictions(x[surest], y), y)
    return float(np.exp(total))


def conditional_entropy(x: np.ndarray, y: np.ndarray) -> float:
    """H(Y | X) in nats, of two boolean arrays `[N]`."""
    total = 0.0
    for value in (False, True):
        y_given_x = y[x == value]
        if not len(y_given_x):
            continue
        p = np.array([y_given_x.mean(), 1 - y_given_x.mean()])
        entropy = -float((p[p > 0] * np.log(p[p > 0])).sum())
        total += len(y_given_x) / len(y) * entropy
    return total


def svm_predictions(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Fit a linear support vector machine with squared hinge loss, and predict its training data.

    Args:
        x: `[N, D]`.
        y: Boolean `[N]`.

    Returns:
        Boolean `[N]`: the side of the hyperplane on which each x lies.
    """
    plane = hyperplane(x, y)
    side: np.ndarray = x @ plane[:-1] + plane[-1] > 0
    return side


def hyperplane(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The hyperplane of a linear support vector machine with squared hinge loss, by Newton's method (Keerthi and DeCoste 2005).

    Each step solves the least squares of the points within the margin, and is halved until the loss falls.

    Args:
        x: `[N, D]`.
        y: Boolean `[N]`.

    Returns:
        float64 `[D + 1]`, the constant last. Its value is positive on the side of true y.
    """
    inputs, signs = np.concatenate([x, np.ones((len(x), 1))], axis=1), np.where(y, 1.0, -1.0)
    penalty = np.append(np.ones(x.shape[1]), 1e-9)  # the constant is free, up to what keeps the system regular

    def loss(plane: np.ndarray) -> float:
        return float(penalty @ np.square(plane) / 2 + HINGE * np.square(np.maximum(1 - signs * (inputs @ plane), 0)).sum())

    plane, lowest = np.zeros(inputs.shape[1]), HINGE * float(len(x))
    for _ in range(ITERATIONS):
        active = signs * (inputs @ plane) < 1
        rows = inputs[active]
        step = np.linalg.solve(np.diag(penalty) + 2 * HINGE * rows.T @ rows, 2 * HINGE * rows.T @ signs[active]) - plane
        length = 1.0
        while length > SHORTEST and loss(plane + length * step) >= lowest:
            length /= 2
        if length <= SHORTEST:
            break
        plane, before = plane + length * step, lowest
        lowest = loss(plane)
        if before - lowest <= TOLERANCE * lowest:
            break
    return plane


def standardised(latents: np.ndarray) -> np.ndarray:
    """Latents `[N, D]` with mean 0 and deviation 1 in each dimension that varies."""
    std = latents.std(0)
    standard: np.ndarray = (latents - latents.mean(0)) / np.where(std > 0, std, 1)
    return standard


def surest_half(margin: np.ndarray, rare: bool) -> np.ndarray:
    """Indices of the half of the images with the largest margins, of either sign or (rare) of each sign."""
    order = np.argsort(-np.abs(margin), kind="stable")
    groups = [order[margin[order] > 0], order[margin[order] <= 0]] if rare else [order]
    return np.concatenate([group[: (len(group) + 1) // 2] for group in groups])
