"""Splits a batch of any size into chunks that an engine takes.

An engine takes the batches of its optimisation profiles only, each given as a range (least, best, largest).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

#: Least, best and largest batch of an optimisation profile
BatchRange = tuple[int, int, int]

#: The ranges of a session that takes every batch in one call
ANY_BATCH: tuple[BatchRange, ...] = ((1, 1, sys.maxsize),)


@dataclass(frozen=True)
class BatchChunk:
    """Some images of a batch that run in one call of the engine.

    Attributes:
        first: Index of the first image.
        images: How many images of the batch it holds.
        batch: The batch that the engine runs. If it is more than `images`, the rest is padding.
    """

    first: int
    images: int
    batch: int


def batch_chunks(n: int, ranges: Sequence[BatchRange]) -> list[BatchChunk]:
    """Split `n` images into chunks with as little padding as possible, and then into as few chunks as possible.

    Above the largest batch, chunks of that size come first. Only the least and the largest of each range matter here.
    """
    largest = max(most for _, _, most in ranges)
    full_chunks = max(n - largest, 0) // largest
    rest = _least_padding(n - full_chunks * largest, ranges)
    chunks, first = [], 0
    for images, batch in [(largest, largest)] * full_chunks + sorted(rest, reverse=True):
        chunks.append(BatchChunk(first, images, batch))
        first += images
    return chunks


def limited(ranges: Sequence[BatchRange], max_batch: int) -> list[BatchRange]:
    """`ranges` cut to at most `max_batch`. If no range holds a batch so small, the smallest batch that one holds."""
    cut = [(least, min(best, max_batch), min(most, max_batch)) for least, best, most in ranges if least <= max_batch]
    smallest = min(least for least, _, _ in ranges)
    return cut or [(smallest, smallest, smallest)]


def profile_for(batch: int, ranges: Sequence[BatchRange]) -> int:
    """Index of the range in which a batch runs: among those that hold it, the one with the nearest best batch.

    Raises:
        ValueError: No range holds the batch.
    """
    candidates = [i for i, (least, _, most) in enumerate(ranges) if least <= batch <= most]
    if not candidates:
        raise ValueError(f"no profile holds a batch of {batch}")
    return min(candidates, key=lambda i: (abs(ranges[i][1] - batch), i))


def _least_padding(n: int, ranges: Sequence[BatchRange]) -> list[tuple[int, int]]:
    """`(images, batch)` of each chunk for `n` images, by dynamic programming over (images computed, chunks)."""
    if any(least <= n <= most for least, _, most in ranges):
        return [(n, n)]
    best: list[tuple[int, int, list[tuple[int, int]]]] = [(0, 0, [])]
    for k in range(1, n + 1):
        options = []
        for least, _, most in ranges:
            images = min(k, most)
            batch = max(images, least)
            computed, count, chunks = best[k - images]
            options.append((computed + batch, count + 1, [(images, batch), *chunks]))
        best.append(min(options, key=lambda option: option[:2]))
    return best[n][2]
