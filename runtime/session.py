"""The protocols of a loaded network: `Session` for every backend, `DeviceSession` for those on a GPU.

A session maps named inputs (`ws [N, num_ws, w_dim]` and, for some bundles, noise) to the images `[N, ...]`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from stylert.runtime.batching import BatchRange
from stylert.runtime.cuda.arrays import DeviceView
from stylert.runtime.cuda.device_array import DeviceArray

LOG = logging.getLogger("stylert")

#: Named inputs in host memory. The first axis of each is the batch.
HostInputs = Mapping[str, np.ndarray]
#: Named inputs in host memory or on the GPU. The first axis of each is the batch.
Inputs = Mapping[str, np.ndarray | DeviceView]


class Session(Protocol):
    """One loaded network. Calls may come from several threads."""

    @property
    def device(self) -> str:
        """The device that computes: "cpu", or "cuda" for a `DeviceSession`."""
        ...

    @property
    def tensors(self) -> Sequence[TensorSpec]:
        """The network's inputs and outputs."""
        ...

    @property
    def ranges(self) -> Sequence[BatchRange]:
        """The batches that it takes, as least, best and largest of each range; `batching.ANY_BATCH` if it takes any."""
        ...

    @property
    def concurrency(self) -> int:
        """The number of calls that it can run at the same time."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """Remarks that belong beside measured times, such as a CUDA graph that could not be captured."""
        ...

    def run(self, inputs: HostInputs) -> np.ndarray:
        """The images `[N, ...]` in new host memory.

        Raises:
            OutOfMemory: This batch needs more memory than there is.
        """
        ...

    def close(self) -> None:
        """Free the network's memory. The session must not be used afterwards."""
        ...


@runtime_checkable
class DeviceSession(Session, Protocol):
    """A session on a GPU. Inputs may be on the GPU already, and images may stay on it."""

    @property
    def image(self) -> TensorSpec:
        """Name, type and shape of the network's output."""
        ...

    def run(self, inputs: Inputs) -> np.ndarray:
        """As `Session.run`, for inputs in host memory or on the GPU."""
        ...

    def run_into(self, inputs: Inputs, out: int) -> None:
        """Write the images to device memory at the address `out`. They are complete when this returns.

        Raises:
            OutOfMemory: This batch needs more memory than there is.
        """
        ...

    def new_images(self, n: int, spare: int = 0) -> DeviceArray:
        """Device memory for `n` images, with room for `spare` more behind them that the array does not show.

        Raises:
            BackendError: The GPU has too little free memory.
        """
        ...

    def timed_run(self, inputs: Inputs) -> Timings:
        """Run once and time its parts. The first calls of a batch also compile and capture, so repeat it."""
        ...


@runtime_checkable
class StageSession(Session, Protocol):
    """A session that can also be one stage of a network, with several outputs."""

    def run_stage(self, inputs: HostInputs) -> dict[str, np.ndarray]:
        """All outputs by name, in new host memory. Raises as `run`."""
        ...


@runtime_checkable
class LayerTimer(Protocol):
    """A session whose library can time every layer of the network."""

    def layer_times(self, inputs: HostInputs) -> list[tuple[str, float]]:
        """Name and milliseconds of every layer in one call, in the order in which they run."""
        ...


def device_session(session: Session) -> DeviceSession | None:
    """The session as a `DeviceSession` if it computes on a GPU, else None."""
    return session if session.device == "cuda" and isinstance(session, DeviceSession) else None


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a network.

    Attributes:
        name: Its name.
        is_input: Whether it is an input.
        dtype: The type of its elements.
        shape: The shape of one image, without the batch. -1 stands for a size that the network leaves open.
    """

    name: str
    is_input: bool
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def nbytes(self, batch: int) -> int:
        return batch * math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{'input' if self.is_input else 'output'} {self.name} {self.dtype}[{', '.join(map(str, ('N', *self.shape)))}]"


def closed_shape(shape: Sequence[object]) -> tuple[int, ...]:
    """A library's shape of a tensor without the batch, with -1 for every size that is not a number."""
    return tuple(size if isinstance(size, int) else -1 for size in shape[1:])


@dataclass(frozen=True)
class Timings:
    """Milliseconds of the parts of one call on a GPU, by the device's clock if the library can read it.

    If `enqueue` is more than the other three together, the GPU waits for the host.

    Attributes:
        h2d: Copying the inputs to the device.
        compute: The network.
        d2h: Copying the images back to the host.
        enqueue: The host's time to submit these three. None if it cannot be measured apart.
    """

    h2d: float
    compute: float
    d2h: float
    enqueue: float | None

    def __add__(self, other: Timings) -> Timings:
        """The sum for two calls that ran one after the other."""
        enqueue = None if self.enqueue is None or other.enqueue is None else self.enqueue + other.enqueue
        return Timings(self.h2d + other.h2d, self.compute + other.compute, self.d2h + other.d2h, enqueue)


def note_missing_graph(notes: list[str], reason: BaseException) -> None:
    """Record in `notes` and in the log, once, that calls run without a CUDA graph."""
    line = "without a CUDA graph, because capturing one failed"
    if line not in notes:
        notes.append(line)
        LOG.warning("%s: %s", line, " ".join(str(reason).split())[:200] or type(reason).__name__)
