"""Batches of a dataset on the device. For a GPU, a thread prepares the next batch while the current one is used."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from stylert.train.data.dataset import ImageDataset

Batch = tuple[Tensor, Tensor | None]


class BatchLoader:
    """Reads batches from the stream of `ImageDataset.batch_indices`.

    A batch depends on its position in the stream alone. So prefetched batches are not part of the state of a run.
    """

    def __init__(self, dataset: ImageDataset, device: torch.device, seed: int, count: int, stride: int) -> None:
        """Start the thread for a GPU.

        Args:
            dataset: The images.
            device: Device of the batches.
            seed: Seed of the stream.
            count: Images per batch.
            stride: Distance between two consecutive batches in the stream. It is larger than `count` where several
                processes share the images of a step.
        """
        self.dataset, self.device, self.seed, self.count, self.stride = dataset, device, seed, count, stride
        # On a CPU, a thread would take cores from the networks, and there is no copy to wait for.
        self.prefetch_thread = ThreadPoolExecutor(1) if device.type == "cuda" else None
        self.prefetched: tuple[int, Future[Batch]] | None = None

    def batch(self, position: int) -> Batch:
        """The batch at a position of the stream, and start the next one.

        Returns:
            Images `[count, C, R, R]` in the type of the dataset, and labels float32 `[count, c_dim]` (or None) on the device.
        """
        if self.prefetch_thread is None:
            return self._read(position)
        if self.prefetched is not None and self.prefetched[0] == position:
            future = self.prefetched[1]
        else:
            future = self.prefetch_thread.submit(self._read, position)
        batch = future.result()
        next_position = position + self.stride
        self.prefetched = (next_position, self.prefetch_thread.submit(self._read, next_position))
        return batch

    def _read(self, position: int) -> Batch:
        indices = self.dataset.batch_indices(position, self.count, self.seed)
        images = torch.from_numpy(self.dataset.images[indices])
        labels = None if self.dataset.labels is None else torch.from_numpy(self.dataset.labels[indices])
        if self.device.type == "cuda":
            # From pinned memory, the copy runs beside the kernels. uint8 needs a quarter of the transfer of float32.
            images = images.pin_memory().to(self.device, non_blocking=True)
        return images.to(self.device), None if labels is None else labels.to(self.device)
