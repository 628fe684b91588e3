"""Several processes that train one network, as `torchrun` starts them: who this one is, and sums over all."""

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
    """One process among `world`; rank 0 is the one that writes files and reports."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes, in one exchange. All must be of one type and device."""
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([t.detach().reshape(-1) for t in tensors])
        torch.distributed.all_reduce(flat)
        for t, total in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            t.copy_(total.view_as(t))

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether any process says so; all of them learn the same answer."""
        if self.world == 1:
            return flag
        count = torch.tensor([float(flag)], device=device)
        self.sum([count])
        return bool(count > 0)

    def wait(self) -> None:
        """Until all have come here."""
        if self.world > 1:
            torch.distributed.barrier()


def launched() -> Processes:
    """What the environment of `torchrun` says; one process without it. Connects nothing. Raises InputError when it is odd."""
    try:
        rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        raise InputError("RANK and WORLD_SIZE must be whole numbers, as torchrun sets them") from None
    if not 0 <= rank < world:
        raise InputError(f"RANK {rank} does not lie below WORLD_SIZE {world}")
    return Processes(rank, world)


@contextmanager
def connected(device: torch.device | str) -> Iterator[Processes]:
    """The processes that were launched, connected by NCCL for GPUs and Gloo for CPUs while the context lasts."""
    processes = launched()
    if processes.world == 1:
        yield processes
        return
    torch.distributed.init_process_group("nccl" if torch.device(device).type == "cuda" else "gloo")
    try:
        yield processes
    finally:
        torch.distributed.destroy_process_group()
