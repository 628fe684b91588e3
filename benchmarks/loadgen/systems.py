"""The systems that LoadGen tests, as functions from samples to images.

A sample is a seed. Its input is prepared before a test begins, as LoadGen intends: the latent z, or the request to a server. So
the measured time is that of both networks, or that of a request and its answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from stylert.benchmarks.scenarios.measure import PSI
from stylert.core.images.grids import as_uint8
from stylert.core.seeds import z_from_seeds
from stylert.runtime.bundle import Bundle
from stylert.runtime.choice.auto import AUTO
from stylert.runtime.choice.backend import choose_backend
from stylert.runtime.generator import Generator
from stylert.runtime.serving.network_calls import load_calls

#: Number of samples. LoadGen draws from them.
SAMPLES = 1024

#: From numbers of samples to one uint8 array for each, which is contiguous.
Compute = Callable[[Sequence[int]], Sequence[np.ndarray]]


@dataclass(frozen=True)
class Way:
    """One way to make many images.

    Attributes:
        name: For people, such as `2 calls of 8 images`.
        computes: The functions that may run at the same time.
        batch: Samples in a call.
    """

    name: str
    computes: tuple[Compute, ...]
    batch: int


@dataclass(frozen=True, eq=False)
class System:
    """Something that LoadGen can test.

    Attributes:
        name: For people.
        alone: Makes the image of a sample that nothing else waits for.
        ways: The ways to make many images, at least one.
        computes: The functions for samples that arrive one by one.
        max_batch: Samples in a call of these.
        is_exclusive: Whether `alone` uses the whole machine, so that no call of `computes` may run beside it.
        is_server: Whether a server answers, which forms the batches of samples that arrive one by one.
        close: Frees everything.
    """

    name: str
    alone: Compute
    ways: tuple[Way, ...]
    computes: tuple[Compute, ...]
    max_batch: int
    is_exclusive: bool = False
    is_server: bool = False
    close: Callable[[], None] = field(default=lambda: None)


@dataclass(frozen=True)
class LocalTarget:
    """A bundle, to be loaded in the process of the test.

    Attributes:
        bundle: Its folder.
        backend: Name of a backend, or `auto`.
        precision: A precision; None for fp32, or the first of the bundle.
        threads: CPU threads, as in `Generator.load`.
        batches: The sizes of a call that are tried for many images.
    """

    bundle: Path
    backend: str
    precision: str | None
    threads: int | None
    batches: tuple[int, ...]

    def open(self) -> System:
        """Load the networks.

        Raises:
            StylertError: As `Generator.load`, or the bundle takes noise as inputs.
        """
        bundle = Bundle.load(self.bundle)
        bundle.check_no_noise_inputs()
        precision = self.precision or bundle.default_precision
        backend = choose_backend(bundle, precision, self.threads)[0] if self.backend == AUTO else self.backend
        calls = load_calls(bundle, backend, precision, self.threads, max(self.batches))
        z = z_from_seeds(range(SAMPLES), bundle.model["z_dim"])
        whole = _compute(calls.whole, z)
        narrow = tuple(_compute(generator, z) for generator in calls.narrow)
        whole_calls = (whole,) * calls.whole.concurrency
        ways = tuple(
            Way(f"{len(computes)} call{'s' * (len(computes) > 1)} of {batch} image{'s' * (batch > 1)}", computes, batch)
            for computes in ((whole_calls, narrow) if narrow else (whole_calls,))
            for batch in self.batches
        )
        name = f"{backend} {precision}"
        return System(name, whole, ways, narrow or whole_calls, max(self.batches), bool(narrow), close=calls.close)


@dataclass(frozen=True)
class Speed:
    """Speed of a system before the test. LoadGen needs it to prepare enough queries.

    Attributes:
        latency_s: Seconds of one image alone, the least of several.
        rate: Images per second of the fastest way.
    """

    latency_s: float
    rate: float


def tried(system: System, seconds: float) -> tuple[System, Speed]:
    """Try every way of a system, so that everything is also warm.

    Args:
        system: The system.
        seconds: Least time for each way.

    Returns:
        The system with its fastest way alone, and its speed.

    Raises:
        StylertError: An image cannot be made.
    """
    latency_s = min(_timed(system.alone, number) for number in range(8))
    rates = {way: _rate(way, seconds) for way in system.ways}
    fastest = max(rates, key=lambda way: rates[way])
    return replace(system, ways=(fastest,)), Speed(latency_s, rates[fastest])


def _compute(generator: Generator, z: np.ndarray) -> Compute:
    """The function that makes the images of samples by a generator. Networks with labels make the class 0."""
    has_labels = bool(generator.bundle.model["c_dim"])

    def compute(numbers: Sequence[int]) -> Sequence[np.ndarray]:
        labels = [0] * len(numbers) if has_labels else None
        ws = generator.map(z[list(numbers)], psi=PSI, labels=labels)
        return np.ascontiguousarray(as_uint8(generator.synthesize(ws)))  # type: ignore[return-value]

    return compute


def _timed(compute: Compute, number: int) -> float:
    begin = time.perf_counter()
    compute([number])
    return time.perf_counter() - begin


def _rate(way: Way, seconds: float) -> float:
    """Images per second of a way, after one call of each function."""
    counts, errors = [0] * len(way.computes), []
    barrier = threading.Barrier(len(way.computes) + 1)

    def work(place: int) -> None:
        numbers = [n % SAMPLES for n in range(place, place + way.batch)]
        try:
            way.computes[place](numbers)
            barrier.wait()
            end = time.perf_counter() + seconds
            while time.perf_counter() < end or not counts[place]:
                way.computes[place](numbers)
                counts[place] += way.batch
        except threading.BrokenBarrierError:
            pass  # another one has failed
        except BaseException as e:
            errors.append(e)
            barrier.abort()

    threads = [threading.Thread(target=work, args=[place], daemon=True) for place in range(len(way.computes))]
    for thread in threads:
        thread.start()
    with suppress(threading.BrokenBarrierError):  # the error is raised below
        barrier.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return sum(counts) / (time.perf_counter() - begin)
