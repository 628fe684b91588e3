"""Batches from memory to the device, uint8: for a GPU, the next one is on its way while the present one is used."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from stylert.train.data.dataset import ImageDataset

Batch = tuple[Tensor, Tensor | None]


class Loader:
    """Batches of `count` images, `stride` apart in the stream of shuffled epochs that `seed` makes of a dataset.

    What a batch holds depends on its position alone, so nothing that was fetched ahead belongs to the state of a run.
    """

    def __init__(self, dataset: ImageDataset, device: torch.device, seed: int, count: int, stride: int) -> None:
        self.dataset, self.device, self.seed, self.count, self.stride = dataset, device, seed, count, stride
        # Gathering for the CPU takes the cores that the networks need, and nothing waits for a copy: no thread there.
        self.ahead = ThreadPoolExecutor(1) if device.type == "cuda" else None
        self.next: tuple[int, Future[Batch]] | None = None

    def batch(self, position: int) -> Batch:
        """Images `[count, C, R, R]` uint8 and labels `[count, c_dim]` float32 (or None) from this position on."""
        if self.ahead is None:
            return self._gather(position)
        future = (
            self.next[1] if self.next is not None and self.next[0] == position else self.ahead.submit(self._gather, position)
        )
        following = position + self.stride
        batch = future.result()
        self.next = (following, self.ahead.submit(self._gather, following))
        return batch

    def _gather(self, position: int) -> Batch:
        index = self.dataset.batch_indices(position, self.count, self.seed)
        images = torch.from_numpy(self.dataset.images[index])
        labels = None if self.dataset.labels is None else torch.from_numpy(self.dataset.labels[index])
        if self.device.type == "cuda":
            # From pinned memory the copy runs beside the kernels, and only a byte per sample crosses the bus.
            images = images.pin_memory().to(self.device, non_blocking=True)
        return images.to(self.device), None if labels is None else labels.to(self.device)
