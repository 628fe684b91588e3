"""The adversarial losses, R1 and R2 and path length regularisation, and style mixing.

G is the generator, D the discriminator, x a real image, z a latent, w its image under the mapping network.
Every loss is a scalar to minimise, a mean over the batch. Images are `[N, C, R, R]` in [-1, 1].
`phase_losses` applies these formulas to the networks of a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stylert.models.stylegan2.networks import Generator


def mixed_ws(generator: Generator, z: Tensor, c: Tensor | None, mixing_prob: float, update_w_avg: bool = False) -> Tensor:
    """Map z to ws, with style mixing (Karras et al. 2018, section 3.1).

    With probability `mixing_prob`, the layers after a random crossover use the w of a second latent.
    The crossover is uniform over the layers, and one crossover serves the whole batch.

    Args:
        generator: The generator.
        z: `[N, z_dim]`.
        c: Labels `[N, c_dim]`, or None.
        mixing_prob: 0 to 1.
        update_w_avg: Whether the w of z update the moving average `w_avg`.

    Returns:
        ws `[N, num_ws, w_dim]`.
    """
    ws = generator.mapping(z, c, update_w_avg=update_w_avg)
    if mixing_prob > 0 and torch.rand([]) < mixing_prob:
        crossover = int(torch.randint(1, ws.shape[1], []))
        second_ws = generator.mapping(torch.randn_like(z), c)
        ws = torch.cat([ws[:, :crossover], second_ws[:, crossover:]], dim=1)
    return ws


@dataclass(frozen=True)
class AdversarialLoss:
    """The losses of both networks. A discriminator may have several logits per image, `[N, L]`, which count alike.

    Attributes:
        generator: Called with the logits of generated images, and those of real images or None.
        discriminator: Called with the logits of generated and of real images.
        pairs: Whether `generator` needs the logits of real images.
    """

    generator: Callable[[Tensor, Tensor | None], Tensor]
    discriminator: Callable[[Tensor, Tensor], Tensor]
    pairs: bool = False


def generator_loss(fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
    """Non-saturating logistic loss of the generator, `-log sigmoid(D(G(z)))` (Goodfellow et al. 2014)."""
    return F.softplus(-fake_logits).mean()


def discriminator_loss(fake_logits: Tensor, real_logits: Tensor) -> Tensor:
    """Logistic loss of the discriminator, `-log(1 - sigmoid(D(G(z)))) - log sigmoid(D(x))` (Goodfellow et al. 2014)."""
    return F.softplus(fake_logits).mean() + F.softplus(-real_logits).mean()


def relativistic_generator_loss(fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
    """Relativistic loss of the generator, `-log sigmoid(D(G(z)) - D(x))` (R3GAN, Huang et al. 2024, equation 2)."""
    assert real_logits is not None
    return F.softplus(real_logits - fake_logits).mean()


def relativistic_discriminator_loss(fake_logits: Tensor, real_logits: Tensor) -> Tensor:
    """Relativistic loss of the discriminator, `-log sigmoid(D(x) - D(G(z)))` (R3GAN, Huang et al. 2024, equation 2)."""
    return F.softplus(fake_logits - real_logits).mean()


def hinge_generator_loss(fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
    """Hinge loss of the generator, `-D(G(z))` (Lim and Ye 2017)."""
    return -fake_logits.mean()


def hinge_discriminator_loss(fake_logits: Tensor, real_logits: Tensor) -> Tensor:
    """Hinge loss of the discriminator, `max(0, 1 + D(G(z))) + max(0, 1 - D(x))` (Lim and Ye 2017)."""
    return F.relu(1 + fake_logits).mean() + F.relu(1 - real_logits).mean()


#: The choices of `TrainConfig.loss`.
ADVERSARIAL_LOSSES = {
    "logistic": AdversarialLoss(generator_loss, discriminator_loss),
    "relativistic": AdversarialLoss(relativistic_generator_loss, relativistic_discriminator_loss, pairs=True),
    "hinge": AdversarialLoss(hinge_generator_loss, hinge_discriminator_loss),
}


def with_pixels(heads: AdversarialLoss) -> AdversarialLoss:
    """The loss of a projected discriminator that also judges pixels: a sum, as in vision-aided training.

    The last logit of an image has StyleGAN2's loss, the logits before it have the loss of the heads (Kumari et al. 2022).
    """
    pixels = ADVERSARIAL_LOSSES["logistic"]

    def generator(fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        of_heads = heads.generator(fake_logits[:, :-1], None if real_logits is None else real_logits[:, :-1])
        return of_heads + pixels.generator(fake_logits[:, -1:], None)

    def discriminator(fake_logits: Tensor, real_logits: Tensor) -> Tensor:
        of_heads = heads.discriminator(fake_logits[:, :-1], real_logits[:, :-1])
        return of_heads + pixels.discriminator(fake_logits[:, -1:], real_logits[:, -1:])

    return AdversarialLoss(generator, discriminator, heads.pairs)


def gradient_penalty(
    discriminator: Callable[..., Tensor],
    images: Tensor | list[Tensor],
    c: Tensor | None,
    gamma: float | Sequence[float],
    half: torch.dtype | None = None,
) -> Tensor:
    """`gamma / 2 * E |grad_x D(x)|^2`: R1 over real images x, R2 over generated ones (Mescheder et al. 2018).

    Args:
        discriminator: D, called as `discriminator(images, c, half=half)`.
        images: `[N, C, R, R]`, or the maps of a projected discriminator `[N, C_i, S_i, S_i]`. Then D is its `judge`.
        c: Labels of the images `[N, c_dim]`, or None.
        gamma: The weight, `r1_gamma` or `r2_gamma` of the configuration. For maps, one for all or one for each.
        half: Type of the highest resolutions, or None for float32.
    """
    tensors = [images] if isinstance(images, Tensor) else images
    inputs = [x.detach().float().requires_grad_() for x in tensors]
    logits = discriminator(inputs[0] if isinstance(images, Tensor) else inputs, c, half=half)
    gradients = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
    gammas = [gamma] * len(inputs) if isinstance(gamma, int | float) else gamma
    penalties = [g.square().sum((1, 2, 3)).mean() * (weight / 2) for g, weight in zip(gradients, gammas, strict=True)]
    return torch.stack(penalties).sum()


def path_length_penalty(
    generator: Generator, ws: Tensor, pl_mean: Tensor, decay: float = 0.01, half: torch.dtype | None = None
) -> Tensor:
    """Path length regularisation, `E (|J_w^T y| - a)^2` (Karras et al. 2020a, equation 4).

    J is the Jacobian of the image with respect to w, y a random normal image divided by R, and a the moving average of
    the lengths `|J_w^T y|`. It includes the lengths of this batch, and the gradient flows through them.

    Args:
        generator: The generator.
        ws: `[N, num_ws, w_dim]`, connected to the graph of the mapping network.
        pl_mean: a, a scalar. It is updated in place, without a gradient.
        decay: Weight of the new lengths in a, `pl_decay` of the configuration.
        half: Type of the highest resolutions, or None for float32.
    """
    images = generator.synthesis(ws, noise_mode="random", half=half)
    y = torch.randn_like(images) / math.sqrt(images.shape[2] * images.shape[3])
    (gradient,) = torch.autograd.grad((images * y).sum(), ws, create_graph=True)
    lengths = gradient.square().sum(2).mean(1).sqrt()
    mean = pl_mean.lerp(lengths.mean(), decay)
    pl_mean.copy_(mean.detach())
    return (lengths - mean).square().mean()
