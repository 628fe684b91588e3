"""The calls that make a model's images: one with all threads of the processor, or several at the same time with few threads each.

The threads of one call wait for each other after each layer. In a small network the waits are a large part of the time, and any other
work of the machine makes them longer. Calls with one thread each have no such waits, but a single image takes longer in them.
"""

from __future__ import annotations

from dataclasses import dataclass

from stylert.core.machine.host import usable_cores
from stylert.runtime.bundle import Bundle
from stylert.runtime.generator import Generator

#: Backends that gain, each with whether calls of one network run at the same time. Otherwise each call needs a network of its own.
SHARES_NETWORK = {"onnxruntime": True, "openvino": False}
#: Images up to this size come from a network that is small enough.
MAX_RESOLUTION = 128
#: Calls at the same time. More would leave smaller batches.
MAX_CALLS = 4


@dataclass(frozen=True, eq=False)
class NetworkCalls:
    """The loaded networks of one model.

    Attributes:
        whole: Uses all threads in one call.
        narrow: The network of each call that may run at the same time as the others, and beside none of `whole`. Empty if `whole`
            takes all calls.
    """

    whole: Generator
    narrow: tuple[Generator, ...]

    def close(self) -> None:
        """Free the networks."""
        for generator in {self.whole, *self.narrow}:
            generator.close()


def load_calls(
    bundle: Bundle, backend: str, precision: str, threads: int | None, max_batch: int, incremental: bool = False
) -> NetworkCalls:
    """Load the networks of a model. Arguments and errors are those of `Generator.load`.

    An incremental network takes all calls, so that it finds the features of those before.
    """
    whole = Generator.load(bundle, backend, precision, threads, max_batch, incremental=incremental)
    count, threads_each = (1, threads) if incremental else calls_at_once(bundle, whole.backend, threads)
    if count == 1:
        return NetworkCalls(whole, ())
    networks = 1 if SHARES_NETWORK[whole.backend] else count
    narrow: list[Generator] = []
    try:
        while len(narrow) < networks:
            narrow.append(Generator.load(bundle, whole.backend, precision, threads_each, max_batch))
    except BaseException:
        NetworkCalls(whole, tuple(narrow)).close()
        raise
    return NetworkCalls(whole, tuple(narrow * (count // networks)))


def calls_at_once(bundle: Bundle, backend: str, threads: int | None) -> tuple[int, int | None]:
    """How many calls make most images per second at the same time, and the threads of each.

    Args:
        bundle: The bundle.
        backend: The backend, by its name.
        threads: Threads of all calls together; None for those of the machine.

    Returns:
        One call with `threads`, or several with their part of the threads.
    """
    cores = threads or usable_cores()
    count = min(cores, MAX_CALLS)
    if count == 1 or backend not in SHARES_NETWORK or bundle.pixels > MAX_RESOLUTION**2:
        return 1, threads
    return count, cores // count
