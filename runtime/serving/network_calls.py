"""The calls that make a model's images: one with all threads of the processor, or several at the same time with few threads each.

The threads of one call wait for each other after each layer. In a small network the waits are a large part of the time, and any other
work of the machine makes them longer. Calls with one thread each have no such waits, but a single image takes longer in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stylert.core.machine.host import usable_cores
from stylert.runtime.bundle import Bundle
from stylert.runtime.generator import Generator

#: Backends whose calls from several threads run at the same time, each on the threads of its own network.
SHARED_BY_CALLS = ("onnxruntime",)
#: Images up to this size come from a network that is small enough.
MAX_RESOLUTION = 128
#: Calls at the same time. More would fill the processor no better, and leave smaller batches.
MAX_CALLS = 4


@dataclass(frozen=True, eq=False)
class NetworkCalls:
    """The loaded networks of one model.

    Attributes:
        whole: Uses all threads in one call.
        narrow: Uses few threads in a call, and takes `count` calls at a time. None if `whole` takes all calls.
        count: Calls that may run at the same time, beside none of `whole`.
    """

    whole: Generator
    narrow: Generator | None
    count: int

    @property
    def generators(self) -> Sequence[Generator]:
        return [self.whole] if self.narrow is None else [self.whole, self.narrow]

    def close(self) -> None:
        """Free the networks."""
        for generator in self.generators:
            generator.close()


def load_calls(bundle: Bundle, backend: str, precision: str, threads: int | None, max_batch: int) -> NetworkCalls:
    """Load the networks of a model. Arguments and errors are those of `Generator.load`."""
    whole = Generator.load(bundle, backend, precision, threads, max_batch)
    count = min(threads or usable_cores(), MAX_CALLS)
    if count == 1 or backend not in SHARED_BY_CALLS or bundle.resolution > MAX_RESOLUTION:
        return NetworkCalls(whole, None, whole.concurrency)
    try:
        narrow = Generator.load(bundle, backend, precision, (threads or usable_cores()) // count, max_batch)
    except BaseException:
        whole.close()
        raise
    return NetworkCalls(whole, narrow, count)
