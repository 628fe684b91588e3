"""How a batch of any size runs on an engine that takes some sizes only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Least, best and largest batch of an optimisation profile
BatchRange = tuple[int, int, int]


@dataclass(frozen=True)
class Step:
    """`images` of the batch from `first` on, run as a batch of `batch`: where that is more, the rest is padding."""

    first: int
    images: int
    batch: int


def steps(n: int, ranges: Sequence[BatchRange]) -> list[Step]:
    """The steps in which `n` images run: as little padding as can be, then as few steps as can be.

    Large batches first go in steps of the largest size. `ranges` are least, best and largest; best is not looked at.
    """
    largest = max(most for _, _, most in ranges)
    whole = max(n - largest, 0) // largest
    rest = _cheapest(n - whole * largest, ranges)
    found, first = [], 0
    for images, batch in [(largest, largest)] * whole + sorted(rest, reverse=True):
        found.append(Step(first, images, batch))
        first += images
    return found


def limited(ranges: Sequence[BatchRange], max_batch: int) -> list[BatchRange]:
    """`ranges` cut to at most `max_batch`; where an engine takes nothing so small, its smallest size."""
    cut = [(least, min(best, max_batch), min(most, max_batch)) for least, best, most in ranges if least <= max_batch]
    smallest = min(least for least, _, _ in ranges)
    return cut or [(smallest, smallest, smallest)]


def profile_for(batch: int, ranges: Sequence[BatchRange]) -> int:
    """Which of `ranges` to run a batch in: of those that hold it, the one tuned for the size nearest to it.

    Raises ValueError where none holds it.
    """
    holding = [i for i, (least, _, most) in enumerate(ranges) if least <= batch <= most]
    if not holding:
        raise ValueError(f"no profile holds a batch of {batch}")
    return min(holding, key=lambda i: (abs(ranges[i][1] - batch), i))


def _cheapest(n: int, ranges: Sequence[BatchRange]) -> list[tuple[int, int]]:
    """`(images, batch)` of each step for `n` images, by dynamic programming over (images computed, steps)."""
    if any(least <= n <= most for least, _, most in ranges):
        return [(n, n)]
    best: list[tuple[int, int, list[tuple[int, int]]]] = [(0, 0, [])]
    for k in range(1, n + 1):
        choices = []
        for least, _, most in ranges:
            images, batch = min(k, most), max(min(k, most), least)
            computed, count, before = best[k - images]
            choices.append((computed + batch, count + 1, [(images, batch), *before]))
        best.append(min(choices, key=lambda c: c[:2]))
    return best[n][2]
