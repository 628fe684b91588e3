"""Style levels: the pixels that each latent of ws styles, and style mixing by level.

A synthesis network takes num_ws = 2 log2(resolution) - 2 latents. Latent 0 styles the one convolution at 4 px. Each block
above has two convolutions with one latent each: latents 1 and 2 belong to 8 px, 3 and 4 to 16 px, and so on. The last
latent styles the last torgb only. Every other torgb uses the first latent of the next block. So latent i belongs to

    min(4 * 2**ceil(i / 2), resolution) px

In StyleGAN1 two latents belong to each resolution, because the constant at 4 px has a latent and torgb has none.

The levels are those of the StyleGAN paper (Karras et al. 2018, figure 3): coarse, middle and fine. The latents of StyleGAN3
belong to no resolution, so a user names them by number.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from stylert.core.errors import InputError, shown
from stylert.runtime.network_kinds import STYLEGAN2, NetworkKind

#: Most latents of any network
MAX_WS = 66
#: The lowest and the highest block of each level, pixels
LEVELS = {"coarse": (4, 8), "middle": (16, 32), "fine": (64, 4096)}


def ws_resolution(index: int, num_ws: int, kind: NetworkKind = STYLEGAN2) -> int:
    """The resolution of the block to which a latent belongs, pixels."""
    return min(4 * 2 ** ((index + 2 - kind.first_latents) // 2), 2 ** ((num_ws + 2) // 2))


def level_indices(level: str, num_ws: int, kind: NetworkKind = STYLEGAN2) -> list[int]:
    """The latents of a level of `LEVELS`; none if the network has no levels, or is too small to have this one."""
    if not kind.has_levels:
        return []
    low, high = LEVELS[level]
    return [i for i in range(num_ws) if low <= ws_resolution(i, num_ws, kind) <= high]


def parse_levels(text: str, num_ws: int, kind: NetworkKind = STYLEGAN2) -> list[int]:
    """Read levels and latents, such as `"coarse"`, `"middle,fine"`, `"0-3"` or `"coarse,5"`.

    Returns:
        The latents' indices, in ascending order.

    Raises:
        InputError: The text has another form, or the network does not have one of its levels or latents.
    """
    if not isinstance(text, str):
        raise InputError(f"levels are text such as coarse,5 (got {shown(text)})")
    if isinstance(num_ws, bool) or not isinstance(num_ws, (int, np.integer)) or not 2 <= num_ws <= MAX_WS:
        raise InputError(f"a network has 2 to {MAX_WS} latents, not {shown(num_ws)}")
    chosen: set[int] = set()
    for part in (p.strip() for p in text.split(",")):
        first, dash, last = part.partition("-")
        if part in LEVELS:
            if not kind.has_levels:
                raise InputError(f"{kind.title} has no {part} level: name its latents, such as 0-3")
            indices = level_indices(part, num_ws, kind)
            if not indices:
                raise InputError(f"a network of {ws_resolution(num_ws - 1, num_ws)} px has no {part} level")
            chosen.update(indices)
        elif all(n.isascii() and n.isdigit() and len(n) <= 4 for n in ([first, last] if dash else [first])):
            low, high = int(first), int(last or first)
            if not low <= high < num_ws:
                raise InputError(f"levels {part}: this network's latents are 0 to {num_ws - 1}")
            chosen.update(range(low, high + 1))
        else:
            raise InputError(f"levels are coarse, middle, fine or latents such as 0-3 (got {text[:40]!r})")
    return sorted(chosen)


def mix_styles(row: np.ndarray, columns: np.ndarray, indices: Iterable[int]) -> np.ndarray:
    """Mix the styles of one latent with those of M others.

    Args:
        row: ws of the one, `[num_ws, w_dim]`.
        columns: ws of the others, `[M, num_ws, w_dim]`.
        indices: The latents to take from `columns`. All others come from `row`.

    Returns:
        Mixed ws, `[M, num_ws, w_dim]`.

    Raises:
        InputError: An index is no latent of the row. Or `row` and `columns` are no such arrays.
    """
    if not isinstance(row, np.ndarray) or row.ndim != 2 or row.dtype.kind != "f":
        raise InputError(f"row is an array of floats [num_ws, w_dim], not {shown(row)}")
    if not isinstance(columns, np.ndarray) or columns.shape[1:] != row.shape or columns.dtype.kind != "f":
        raise InputError(f"columns are an array of floats [M, {row.shape[0]}, {row.shape[1]}], not {shown(columns)}")
    try:
        taken = list(indices)
    except (TypeError, ValueError):  # ValueError: a closed file
        raise InputError(f"the latents to take are indices such as [0, 1], not {shown(indices)}") from None
    for index in taken:
        if isinstance(index, bool) or not isinstance(index, (int, np.integer)) or not 0 <= index < len(row):
            raise InputError(f"a latent is a whole number from 0 to {len(row) - 1}, not {shown(index)}")
    mixed = np.repeat(row[None], len(columns), axis=0)
    mixed[:, taken] = columns[:, taken]
    return mixed
