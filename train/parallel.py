"""Data-parallel training in several processes, as `torchrun` starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from stylert.core.errors import InputError


@dataclass(frozen=True)
class Processes:
    """The rank of this process among `world_size` processes. Rank 0 writes files and reports."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process has rank 0."""
        return self.rank == 0

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in one all-reduce. All have one type and device."""
        if self.world_size == 1 or not tensors:
            return
        flat = torch.cat([t.detach().reshape(-1) for t in tensors])
        torch.distributed.all_reduce(flat)
        for t, total in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            t.copy_(total.view_as(t))

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether `flag` is true in any process. All processes get the same answer."""
        if self.world_size == 1:
            return flag
        count = torch.tensor([float(flag)], device=device)
        self.sum([count])
        return bool(count > 0)

    def barrier(self) -> None:
        """Wait until all processes have called this."""
        if self.world_size > 1:
            torch.distributed.barrier()


def launched_processes() -> Processes:
    """The rank and world size that `torchrun` set in the environment; one process without them. Connects nothing.

    Raises:
        InputError: RANK or WORLD_SIZE is no whole number, or the rank is out of range.
    """
    try:
        rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        raise InputError("RANK and WORLD_SIZE must be whole numbers, as torchrun sets them") from None
    if not 0 <= rank < world_size:
        raise InputError(f"RANK {rank} must be at least 0 and below WORLD_SIZE {world_size}")
    return Processes(rank, world_size)


@contextmanager
def process_group(device: torch.device | str) -> Iterator[Processes]:
    """Connect the launched processes while the context lasts: with NCCL on GPUs, with Gloo on CPUs."""
    processes = launched_processes()
    if processes.world_size == 1:
        yield processes
        return
    torch.distributed.init_process_group("nccl" if torch.device(device).type == "cuda" else "gloo")
    try:
        yield processes
    finally:
        torch.distributed.destroy_process_group()
