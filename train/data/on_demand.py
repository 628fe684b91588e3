"""Images that are too many for memory: decoded when they are wanted, by several threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

#: Decoders release Python's lock while they work; more threads than this only wait for the file.
MOST_THREADS = 16


class OnDemand:
    """Stands in for an array `[M, C, R, R]` uint8 where images are picked along the first axis, by slices or index arrays.

    `decode` gives image number i, `[C, R, R]`; what it raises comes out of the indexing.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, decode: Callable[[int], np.ndarray], shape: tuple[int, int, int, int]) -> None:
        self.decode, self.shape = decode, shape
        self.threads = ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_THREADS))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        numbers = np.arange(len(self))[index]
        out = np.empty((len(numbers), *self.shape[1:]), np.uint8)
        for i, image in enumerate(self.threads.map(self.decode, numbers.tolist())):
            out[i] = image
        return out
