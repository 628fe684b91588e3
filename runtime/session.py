"""What every backend's loaded network can be asked for, and what only those on a GPU can."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from stylert.runtime.cuda.arrays import OnDevice
from stylert.runtime.cuda.device_array import DeviceArray

LOG = logging.getLogger("stylert")


class Session(Protocol):
    """One loaded network. One that takes only some batches says so in `ranges` (least, best, largest of each)."""

    #: Where it computes: "cpu", or "cuda", where it is a `DeviceSession`
    device: str

    def run(self, inputs: dict[str, Any]) -> np.ndarray:
        """The network's one output for named inputs whose first axis is the batch. Raises OutOfMemory where it lacks."""
        ...

    def close(self) -> None:
        """Give back what the session holds; it is not used afterwards."""
        ...


class DeviceSession(Session, Protocol):
    """One on a GPU, whose inputs may be arrays that lie there, and whose images may stay there.

    One that has several calls under way says how many in `lanes`.
    """

    #: The network's output
    image: Tensor
    #: What a measurement of this session should say beside its times
    notes: list[str]

    def run_into(self, inputs: dict[str, np.ndarray | OnDevice], out: int) -> None:
        """The images, written to device memory at the address `out`. They are there when this returns."""
        ...

    def new_images(self, n: int, spare: int = 0) -> DeviceArray:
        """Device memory for `n` images, and behind them for `spare` more. Raises BackendError where it lacks."""
        ...

    def timed_run(self, inputs: dict[str, np.ndarray | OnDevice]) -> Timings:
        """As `run`, for where the time goes: repeat it as a measured call is repeated, since first calls prepare."""
        ...


@dataclass(frozen=True)
class Tensor:
    """One input or output of a network. `shape` is that of one image."""

    name: str
    is_input: bool
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def nbytes(self, batch: int) -> int:
        return batch * math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Timings:
    """Milliseconds of one call on a GPU: inputs to the device, the network, images back to the host, by the device's own clock
    where the library lets it be read; and how long the host took to hand it all over, None where that cannot be told apart.

    A call whose `enqueue` is longer than the rest together waits for the host and not for the GPU.
    """

    h2d: float
    compute: float
    d2h: float
    enqueue: float | None

    def __add__(self, other: Timings) -> Timings:
        """Of calls one after the other."""
        enqueue = None if self.enqueue is None or other.enqueue is None else self.enqueue + other.enqueue
        return Timings(self.h2d + other.h2d, self.compute + other.compute, self.d2h + other.d2h, enqueue)


def without_graph(notes: list[str], reason: BaseException) -> None:
    """Say once, to the log and to whoever measures, that calls go on without a CUDA graph."""
    line = "without a CUDA graph, because capturing one failed"
    if line not in notes:
        notes.append(line)
        LOG.warning("%s: %s", line, " ".join(str(reason).split())[:200] or type(reason).__name__)
