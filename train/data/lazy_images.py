"""Images of a dataset that is too large for memory. They are decoded when they are indexed, by several threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

#: Decoders release Python's global lock while they work. Beyond this number, threads wait for the file only.
MAX_THREADS = 16


class LazyImages:
    """Replaces an array `[M, C, H, W]` that is indexed along its first axis, by slices or index arrays."""

    def __init__(
        self, decode: Callable[[int], np.ndarray], shape: tuple[int, int, int, int], dtype: np.typing.DTypeLike = np.uint8
    ) -> None:
        """Prepare the threads; nothing is decoded yet.

        Args:
            decode: Returns image number i, `[C, H, W]`. Its exceptions are raised by the indexing.
            shape: `[M, C, H, W]`.
            dtype: Type of the images.
        """
        self.decode, self.shape, self.dtype = decode, shape, np.dtype(dtype)
        self.threads = ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_THREADS))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        indices = np.arange(len(self))[index]
        images = np.empty((len(indices), *self.shape[1:]), self.dtype)
        for i, image in enumerate(self.threads.map(self.decode, indices.tolist())):
            images[i] = image
        return images
