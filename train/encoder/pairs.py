"""Training pairs of an encoder: random latents of a generator, and their images. They cost nothing but the generator's time."""

from __future__ import annotations

import torch
from torch import Tensor

from stylert.models.stylegan2.networks import Generator

#: Share of the pairs that are truncated, and the least psi.
TRUNCATED, LEAST_PSI = 0.5, 0.5
#: Share of the pairs whose latents are mixed from two w. Otherwise ws of one w alone would be learned, which is W and not W+.
MIXED = 0.5


@torch.no_grad()
def draw_pairs(generator: Generator, count: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw latents and their images with constant noise, with values beyond white and black cut, as files hold them.

    Args:
        generator: The generator, frozen.
        count: N, the number of pairs.
        draws: Source of all random numbers, on the CPU.

    Returns:
        ws `[N, num_ws, w_dim]` and images `[N, C, R, R]`, on the device of the generator.
    """
    ws = draw_latents(generator, count, draws)
    return ws, generator.synthesis(ws, "const").clamp(-1, 1)


@torch.no_grad()
def draw_latents(generator: Generator, count: int, draws: torch.Generator) -> Tensor:
    """Random ws `[N, num_ws, w_dim]`. Each is truncated by a psi of its own, and mixed from two w at a random latent, or not."""
    cfg, device = generator.cfg, next(generator.parameters()).device
    z = torch.randn(2 * count, cfg.z_dim, generator=draws)
    c = torch.eye(cfg.c_dim)[torch.randint(cfg.c_dim, (2 * count,), generator=draws)].to(device) if cfg.c_dim else None
    ws = generator.mapping(z.to(device), c)
    first, second = ws[:count], ws[count:]
    crossover = torch.randint(1, max(cfg.num_ws, 2), (count,), generator=draws)
    crossover[torch.rand(count, generator=draws) >= MIXED] = cfg.num_ws
    is_first = (torch.arange(cfg.num_ws) < crossover[:, None]).to(device)
    mixed = torch.where(is_first[..., None], first, second)
    psi = LEAST_PSI + (1 - LEAST_PSI) * torch.rand(count, generator=draws)
    psi[torch.rand(count, generator=draws) >= TRUNCATED] = 1.0
    average: Tensor = generator.mapping.w_avg
    return average + psi.to(device)[:, None, None] * (mixed - average)
