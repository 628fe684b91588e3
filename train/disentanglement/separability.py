"""Linear separability of single attributes (Karras et al. 2018, section 4.2), measured on held-out images.

The paper fits its machines to 100,000 images and counts the errors on the same ones. Few images in many dimensions are
separable by chance, so each image is predicted here by a machine that was fitted without it.
"""

from __future__ import annotations

import numpy as np

from stylert.train.metrics.separability import conditional_entropy, hyperplane, standardised, surest_half

FOLDS = 5
#: Images with and without an attribute that its entropy needs, among the surest half
LEAST_IMAGES = 10


def held_out_entropy(latents: np.ndarray, margins: np.ndarray, seed: int = 0) -> float | None:
    """H(Y | X) in nats: Y is whether an image has an attribute, and X the prediction of a linear machine from its latent.

    The surest half of the images with the attribute and of those without it counts. Each fifth of them is predicted by a
    machine that was fitted to the others.

    Args:
        latents: `[N, D]`.
        margins: `[N]`, positive where the image has the attribute, and larger in size where this is surer.
        seed: Seed of the division into fifths.

    Returns:
        From 0, for an attribute that a hyperplane separates, to the entropy of Y. None if too few images have the attribute, or
        lack it.
    """
    surest = surest_half(margins, rare=True)
    x, y = standardised(latents[surest]), margins[surest] > 0
    if min(int(y.sum()), int((~y).sum())) < LEAST_IMAGES:
        return None
    folds = np.empty(len(y), int)
    random = np.random.default_rng(seed)
    for side in (False, True):  # each fold has its share of both
        (places,) = np.nonzero(y == side)
        folds[random.permutation(places)] = np.arange(len(places)) % FOLDS
    predicted = np.empty(len(y), bool)
    for fold in range(FOLDS):
        out = folds == fold
        plane = hyperplane(x[~out], y[~out])
        predicted[out] = x[out] @ plane[:-1] + plane[-1] > 0
    return conditional_entropy(predicted, y)
