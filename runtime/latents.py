"""Which of the latents ws style which pixels.

A synthesis network takes num_ws = 2 log2(resolution) - 2 latents. Latent 0 styles the one convolution at 4 px; every block
above has two convolutions with a latent each, so latents 1 and 2 belong to 8 px, 3 and 4 to 16 px, and so on. The last latent
styles only the last block's torgb, and every other torgb shares the first latent of the block above it. So latent i belongs to
the block of min(4 * 2**ceil(i / 2), resolution) pixels, and the levels of the StyleGAN paper (Karras et al. 2018, figure 3),
coarse 4 to 8 px, middle 16 to 32 px, fine from 64 px, cut the latents into three runs.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from stylert.core.errors import InputError

#: Level to its lowest and highest block, pixels
LEVELS = {"coarse": (4, 8), "middle": (16, 32), "fine": (64, 4096)}


def ws_resolution(index: int, num_ws: int) -> int:
    """Pixels of the block that latent `index` of `num_ws` belongs to."""
    return min(4 * 2 ** ((index + 1) // 2), 2 ** ((num_ws + 2) // 2))


def level_indices(level: str, num_ws: int) -> list[int]:
    """Which of `num_ws` latents a level of `LEVELS` holds; none where the network is too small to have that level."""
    low, high = LEVELS[level]
    return [i for i in range(num_ws) if low <= ws_resolution(i, num_ws) <= high]


def parse_levels(text: str, num_ws: int) -> list[int]:
    """`"coarse"`, `"middle,fine"`, `"0-3"` or `"coarse,5"` to latents in ascending order.

    Raises InputError on anything else, on a level that the network lacks, and on a latent that it does not have.
    """
    found: set[int] = set()
    for part in (p.strip() for p in text.split(",")):
        first, dash, last = part.partition("-")
        if part in LEVELS:
            indices = level_indices(part, num_ws)
            if not indices:
                raise InputError(f"a network of {ws_resolution(num_ws - 1, num_ws)} px has no {part} level")
            found.update(indices)
        elif all(n.isascii() and n.isdigit() and len(n) <= 4 for n in ([first, last] if dash else [first])):
            low, high = int(first), int(last or first)
            if not low <= high < num_ws:
                raise InputError(f"levels {part}: this network's latents are 0 to {num_ws - 1}")
            found.update(range(low, high + 1))
        else:
            raise InputError(f"levels are coarse, middle, fine or latents such as 0-3 (got {text[:40]!r})")
    return sorted(found)


def mix_styles(row: np.ndarray, columns: np.ndarray, indices: Iterable[int]) -> np.ndarray:
    """Style mixing: ws `[M, num_ws, w_dim]` of `columns` at `indices`, and of the one `row` `[num_ws, w_dim]` elsewhere."""
    mixed = np.repeat(row[None], len(columns), axis=0)
    chosen = list(indices)
    mixed[:, chosen] = columns[:, chosen]
    return mixed
