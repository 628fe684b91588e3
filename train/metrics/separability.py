"""Linear separability of a latent space (Karras et al. 2018, section 4.2).

A classifier finds attributes Y in generated images. A linear support vector machine predicts each attribute from the
latent of the image, and X is its prediction.

    separability = exp( sum over attributes of H(Y | X) )

H is the conditional entropy in nats. The result is 1 if a hyperplane in latent space separates every attribute, and
larger otherwise.
"""

from __future__ import annotations

import numpy as np
import torch

#: Weight of the squared hinge loss beside half the squared norm of the hyperplane.
HINGE = 1.0
ITERATIONS = 200


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
    std = latents.std(0)
    x = (latents - latents.mean(0)) / np.where(std > 0, std, 1)
    total = 0.0
    for margin in margins.T:
        surest = _surest_half(margin, rare)
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
    inputs = torch.from_numpy(np.concatenate([x, np.ones((len(x), 1))], axis=1))
    signs = torch.from_numpy(np.where(y, 1.0, -1.0))
    plane = torch.zeros(inputs.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([plane], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = plane[:-1].square().sum() / 2 + HINGE * (1 - signs * (inputs @ plane)).clamp_min(0).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return (inputs @ plane.detach() > 0).numpy()


def _surest_half(margin: np.ndarray, rare: bool) -> np.ndarray:
    """Indices of the half of the images with the largest margins, of either sign or (rare) of each sign."""
    order = np.argsort(-np.abs(margin), kind="stable")
    groups = [order[margin[order] > 0], order[margin[order] <= 0]] if rare else [order]
    return np.concatenate([group[: (len(group) + 1) // 2] for group in groups])
