"""StyleGAN2's losses: non-saturating logistic, R1, path length, with style mixing. Images are [N, C, R, R] in [-1, 1].

Each function returns a scalar to minimise; `loop.py` decides when each is applied (lazy regularisation, Karras et al.
2020a, appendix B).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from stylert.models.stylegan2.networks import Generator


def mixed_ws(generator: Generator, z: Tensor, c: Tensor | None, mixing_prob: float, update_w_avg: bool = False) -> Tensor:
    """ws `[N, num_ws, w_dim]` for z; with probability `mixing_prob` the tail comes from a second latent.

    The crossover is uniform over the layers and shared by the batch (Karras et al. 2018, section 3.1).
    """
    ws = generator.mapping(z, c, update_w_avg=update_w_avg)
    if mixing_prob > 0 and torch.rand([]) < mixing_prob:
        crossover = int(torch.randint(1, ws.shape[1], []))
        other = generator.mapping(torch.randn_like(z), c)
        ws = torch.cat([ws[:, :crossover], other[:, crossover:]], dim=1)
    return ws


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating logistic loss, `-log sigmoid(D(G(z)))` (Goodfellow et al. 2014)."""
    return F.softplus(-fake_logits).mean()


def discriminator_loss(fake_logits: Tensor, real_logits: Tensor) -> Tensor:
    """Logistic loss, `-log(1 - sigmoid(D(G(z)))) - log sigmoid(D(x))`."""
    return F.softplus(fake_logits).mean() + F.softplus(-real_logits).mean()


def r1_penalty(
    discriminator: Callable[..., Tensor], real: Tensor, c: Tensor | None, gamma: float, half: torch.dtype | None = None
) -> Tensor:
    """`gamma / 2 * E |grad_x D(x)|^2` over real images (Mescheder et al. 2018); `discriminator(real, c, half=half)` is D."""
    real = real.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(real, c, half=half).sum(), real, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean() * (gamma / 2)


def path_length_penalty(
    generator: Generator, ws: Tensor, pl_mean: Tensor, decay: float = 0.01, half: torch.dtype | None = None
) -> Tensor:
    """`E (|J_w^T y| - a)^2` with random images y of unit expected norm (Karras et al. 2020a, equation 4).

    `pl_mean` (scalar, updated in place) is the exponential moving average a of the lengths.
    """
    images = generator.synthesis(ws, noise_mode="random", half=half)
    y = torch.randn_like(images) / math.sqrt(images.shape[2] * images.shape[3])
    (gradient,) = torch.autograd.grad((images * y).sum(), ws, create_graph=True)
    lengths = gradient.square().sum(2).mean(1).sqrt()
    mean = pl_mean.lerp(lengths.mean().detach(), decay)
    pl_mean.copy_(mean)
    return (lengths - mean).square().mean()
