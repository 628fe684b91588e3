"""Linear separability of a latent space (Karras et al. 2018, section 4.2)."""

from __future__ import annotations

import numpy as np
import torch

#: Weight of the squared hinge beside half the squared norm of the plane.
HINGE = 1.0
ITERATIONS = 200


def linear_separability(latents: np.ndarray, margins: np.ndarray, rare: bool = False) -> float:
    """`exp(sum_i H(Y_i | X_i))`: 1 where a plane in latent space tells every attribute from the latent, larger where none does.

    `latents` `[N, D]` made the images in which a classifier found attributes with `margins` `[N, A]`: positive where it sees the
    attribute, larger the surer it is. As in the paper, the surer half of the images is kept for each attribute, a linear support
    vector machine predicts it from the latent (X), and the entropy, in nats, is that of the classifier's answer (Y) given X.
    With `rare` attributes, it is the surer half of either answer: of an attribute that one image in ten has, the surer half of
    all would be those that lack it.

    Raises ValueError when the shapes differ or there are fewer than four images.
    """
    if latents.ndim != 2 or margins.ndim != 2 or len(latents) != len(margins) or len(latents) < 4:
        raise ValueError(
            f"latents {list(latents.shape)} and margins {list(margins.shape)} must be of the same four or more images"
        )
    spread = latents.std(0)
    x = (latents - latents.mean(0)) / np.where(spread > 0, spread, 1)
    total = 0.0
    for margin in margins.T:
        order = np.argsort(-np.abs(margin), kind="stable")
        groups = [order[margin[order] > 0], order[margin[order] <= 0]] if rare else [order]
        surest = np.concatenate([group[: (len(group) + 1) // 2] for group in groups])
        y = margin[surest] > 0
        if y.all() or not y.any():
            continue  # an answer that is always the same has no entropy
        total += conditional_entropy(support_vector_side(x[surest], y), y)
    return float(np.exp(total))


def conditional_entropy(x: np.ndarray, y: np.ndarray) -> float:
    """H(Y | X) in nats of two boolean arrays `[N]`."""
    total = 0.0
    for side in (False, True):
        here = y[x == side]
        p = np.array([here.mean(), 1 - here.mean()]) if len(here) else np.zeros(0)
        total -= len(here) / len(y) * float((p[p > 0] * np.log(p[p > 0])).sum())
    return total


def support_vector_side(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """On which side of the best plane each of `x` `[N, D]` lies, boolean `[N]`: a linear SVM with squared hinge for labels `y`."""
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
