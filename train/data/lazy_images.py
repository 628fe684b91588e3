"""Images of a dataset that is too large for memory. They are decoded when they are indexed, by several threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

#: Decoders release Python's global lock while they work. Beyond this number, threads wait for the file only.
MAX_THREADS = 16


class LazyImages:
    """Replaces an array uint8 `[M, C, R, R]` that is indexed along its first axis, by slices or index arrays."""

    dtype = np.dtype(np.uint8)

    def __init__(self, decode: Callable[[int], np.ndarray], shape: tuple[int, int, int, int]) -> None:
        """Prepare the threads; nothing is decoded yet.

        Args:
            decode: Returns image number i, uint8 `[C, R, R]`. Its exceptions are raised by the indexing.
            shape: `[M, C, R, R]`.
        """
        self.decode, self.shape = decode, shape
        self.threads = ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_THREADS))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        indices = np.arange(len(self))[index]
        images = np.empty((len(indices), *self.shape[1:]), np.uint8)
        for i, image in enumerate(self.threads.map(self.decode, indices.tolist())):
            images[i] = image
        return images
