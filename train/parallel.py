"""Data-parallel training in several processes, as `torchrun` starts them.

NCCL ends a process that waits for the others for more than its time-out, 10 minutes by default. So the processes wait for
the metrics and snapshots of rank 0 in a group of their own, by Gloo.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from stylert.core.errors import InputError, StylertError, shown, shown_line
from stylert.core.numerals import is_whole_number

#: Longest time that processes wait for rank 0.
LONGEST_WAIT = timedelta(days=7)


class ProcessLost(StylertError):
    """Another process of the run ended, so that this one cannot go on."""


@dataclass(frozen=True)
class Processes:
    """The rank of this process among `world_size` processes. Rank 0 writes files and reports.

    Attributes:
        rank: Number of this process.
        world_size: Number of processes.
        waiting_group: The group in which they wait for each other without NCCL's time-out; None for the default group.
    """

    rank: int = 0
    world_size: int = 1
    waiting_group: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this process has rank 0."""
        return self.rank == 0

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in one all-reduce. All have one type and device.

        Raises:
            ProcessLost: Another process has ended.
        """
        if self.world_size == 1 or not tensors:
            return
        flat = torch.cat([t.detach().reshape(-1) for t in tensors])
        with _lost_processes():
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
        """Wait until all processes have called this.

        Raises:
            ProcessLost: Another process has ended.
        """
        if self.world_size > 1:
            with _lost_processes():
                torch.distributed.barrier(group=self.waiting_group)


@contextmanager
def _lost_processes() -> Iterator[None]:
    """Turn the failure of a collective call into the error that tells its usual cause."""
    try:
        yield
    except RuntimeError as e:
        raise ProcessLost(f"another process of this run ended, see its message; this one stops: {shown_line(str(e))}") from e


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


def local_device(name: str) -> str:
    """The device of this process: `cpu`, `cuda` or one GPU as `cuda:0`.

    With several processes on one machine, `cuda` is the GPU of this one's LOCAL_RANK. A GPU becomes the current one.

    Raises:
        InputError: The name is another one, LOCAL_RANK is no whole number, or there is no such GPU.
    """
    if isinstance(name, str) and name == "cpu":
        return name
    if not isinstance(name, str) or not re.fullmatch(r"cuda(:[0-9]{1,4})?", name):
        raise InputError(f"unknown device {shown(name)}: use cpu, cuda, or cuda:0 for one GPU")
    if not torch.cuda.is_available():
        raise InputError("no CUDA device is available: use --device cpu")
    number = name.partition(":")[2] or os.environ.get("LOCAL_RANK", "0")
    count = torch.cuda.device_count()
    if not (is_whole_number(number) and int(number) < count):
        raise InputError(f"there is no GPU {shown(number)}: this machine has {count}, and the first is 0")
    torch.cuda.set_device(int(number))
    return f"cuda:{int(number)}"


@contextmanager
def process_group(device: torch.device | str) -> Iterator[Processes]:
    """Connect the launched processes while the context lasts: with NCCL on GPUs, with Gloo on CPUs.

    Raises:
        InputError: They do not connect.
    """
    processes = launched_processes()
    if processes.world_size == 1:
        yield processes
        return
    try:
        torch.distributed.init_process_group("nccl" if torch.device(device).type == "cuda" else "gloo")
    except (ValueError, RuntimeError) as e:
        count, reason = processes.world_size, shown_line(str(e))
        raise InputError(f"the {count} processes of this run do not connect; start them by torchrun: {reason}") from None
    try:
        yield replace(processes, waiting_group=torch.distributed.new_group(backend="gloo", timeout=LONGEST_WAIT))
    finally:
        torch.distributed.destroy_process_group()
