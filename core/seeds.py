"""Seeds: their text form on the command line, and the latent z that belongs to a seed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np

from stylert.core.errors import InputError, shown

MAX_SEED = 2**32 - 1
#: Seeds of one call: a million images of 64 px are 12 GB.
MAX_SEEDS = 1_000_000
#: Greatest width of a latent.
MAX_WIDTH = 2**20


def z_from_seeds(seeds: Iterable[int], z_dim: int) -> np.ndarray:
    """The latents of seeds, as in the official tools: `RandomState(seed).randn(1, z_dim)`.

    Args:
        seeds: Whole numbers from 0 to 2**32 - 1.
        z_dim: Width of a latent.

    Returns:
        float32 `[N, z_dim]`, one row per seed.

    Raises:
        InputError: A seed is out of range or no whole number, or there are none, or more than `MAX_SEEDS`. Or `z_dim` is no width.
    """
    if isinstance(z_dim, bool) or not isinstance(z_dim, (int, np.integer)) or not 1 <= z_dim <= MAX_WIDTH:
        raise InputError(f"z_dim is a whole number from 1 to {MAX_WIDTH}, not {shown(z_dim)}")
    rows = []
    try:
        if isinstance(seeds, (bytes, bytearray, memoryview)):  # numbers to Python, and a mistake here
            raise TypeError
        given = list(itertools.islice(seeds, MAX_SEEDS + 1))  # an iterator may have no end
    except (TypeError, ValueError):  # ValueError: a closed file
        raise InputError(f"seeds are whole numbers, such as [0, 1], not {shown(seeds)}") from None
    if len(given) > MAX_SEEDS:
        raise InputError(f"more than {MAX_SEEDS} seeds in one call")
    for seed in given:
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed <= MAX_SEED:
            raise InputError(f"a seed is a whole number from 0 to {MAX_SEED}, not {shown(seed)}")
        rows.append(np.random.RandomState(seed).randn(1, z_dim))
    if not rows:
        raise InputError("no seeds given")
    return np.concatenate(rows).astype(np.float32)


def parse_seeds(text: str, limit: int = MAX_SEEDS) -> list[int]:
    """Read seeds such as `"0-3,7,10-12"`, which is `[0, 1, 2, 3, 7, 10, 11, 12]`.

    Raises:
        InputError: The text has another form, or names more than `limit` seeds. Or `limit` is no whole number from 1.
    """
    if isinstance(limit, bool) or not isinstance(limit, (int, np.integer)) or limit < 1:
        raise InputError(f"the limit of seeds is a whole number from 1, not {shown(limit)}")
    if not isinstance(text, str):
        raise InputError(f"seeds as text look like 0-3,7 (got {shown(text)})")
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isascii() and first.isdigit() and (not dash or (last.isascii() and last.isdigit()))):
            raise InputError(f"seeds look like 0-3,7 (got {shown(text)})")
        if max(len(first), len(last)) > 10 or int(last or first) > MAX_SEED:
            raise InputError(f"a seed is at most {MAX_SEED} (got {shown(text)})")
        low, high = int(first), int(last or first)
        if high < low:
            raise InputError(f"seed range {part.strip()} runs backwards")
        if len(seeds) + high - low + 1 > limit:
            raise InputError(f"more than {limit} seeds")
        seeds.extend(range(low, high + 1))
    return seeds


def format_seeds(seeds: Iterable[int]) -> str:
    """The shortest text from which `parse_seeds` reads `seeds`, in the same order.

    Raises:
        InputError: These are no whole numbers from 0 on.
    """
    runs: list[list[int]] = []
    try:
        given = list(seeds)
    except (TypeError, ValueError):
        raise InputError(f"seeds are whole numbers, such as [0, 1], not {shown(seeds)}") from None
    for seed in given:
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise InputError(f"a seed is a whole number from 0 on, not {shown(seed)}")
        if runs and seed == runs[-1][1] + 1:
            runs[-1][1] = seed
        else:
            runs.append([seed, seed])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
