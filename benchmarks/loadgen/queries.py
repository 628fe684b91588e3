"""Takes the queries of a scenario from LoadGen, and hands it the images.

LoadGen calls from threads of its own, in C++. An error that left such a call would end the process, so every error goes to
`failed`, and the process of the test ends. LoadGen reads an image at the address that it gets, so the arrays stay alive until
`QuerySamplesComplete` returns.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np

from stylert.benchmarks.loadgen.systems import Compute, System
from stylert.runtime.serving.batcher import Batcher

#: Told the first error, and any further ones.
Failed = Callable[[BaseException], None]
#: Identifier and number of a sample.
Sample = tuple[int, int]


class Queries(Protocol):
    """Answers the queries of one scenario."""

    def issue(self, samples: Sequence[Sample]) -> None:
        """Take the samples of a query. They are answered at any time, in any order."""


def queries(scenario: str, system: System, failed: Failed) -> Queries:
    """The object that answers the queries of a scenario."""
    if scenario == "single-stream":
        return OneByOne(system.alone)
    if scenario == "offline":
        (way,) = system.ways
        return AllAtOnce(way.computes, way.batch, failed)
    if system.is_server:
        return OverConnections(system.computes, failed)
    return InBatches(system, failed)


def answer(samples: Sequence[Sample], images: Sequence[np.ndarray]) -> None:
    """Hand images to LoadGen. `images` holds them until it has read them."""
    import mlperf_loadgen as loadgen

    loadgen.QuerySamplesComplete(
        [
            loadgen.QuerySampleResponse(identifier, image.__array_interface__["data"][0], image.nbytes)
            for (identifier, _), image in zip(samples, images, strict=True)
        ]
    )


class OneByOne:
    """Single-stream: each sample in the thread of LoadGen, which has nothing else to do until then."""

    def __init__(self, alone: Compute) -> None:
        self._alone = alone

    def issue(self, samples: Sequence[Sample]) -> None:
        for sample in samples:
            answer([sample], self._alone([sample[1]]))


class AllAtOnce:
    """Offline: one query with all samples. Each function takes the next batch when it is done with the last."""

    def __init__(self, computes: Sequence[Compute], batch: int, failed: Failed) -> None:
        self._computes, self._batch, self._failed = computes, batch, failed

    def issue(self, samples: Sequence[Sample]) -> None:
        batches = deque(samples[i : i + self._batch] for i in range(0, len(samples), self._batch))
        for compute in self._computes:
            threading.Thread(target=self._work, args=[compute, batches], daemon=True).start()

    def _work(self, compute: Compute, batches: deque[Sequence[Sample]]) -> None:
        try:
            while batches:
                try:
                    batch = batches.popleft()
                except IndexError:  # another thread has taken the last one
                    return
                answer(batch, compute([number for _, number in batch]))
        except BaseException as e:
            self._failed(e)


class InBatches:
    """Server, with networks in this process: the batches of `stylert serve` form in front of them."""

    def __init__(self, system: System, failed: Failed) -> None:
        self._failed, self._loop = failed, asyncio.new_event_loop()
        alone = system.alone if system.is_exclusive else None
        self._batcher: Batcher[int, np.ndarray] = Batcher(system.computes, system.max_batch, 0.0, 2**62, alone)
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def issue(self, samples: Sequence[Sample]) -> None:
        self._loop.call_soon_threadsafe(self._submit, samples)

    def _submit(self, samples: Sequence[Sample]) -> None:
        try:
            job = self._batcher.submit([number for _, number in samples])
        except Exception as e:
            self._failed(e)
            return
        for sample, result in zip(samples, job.results, strict=True):
            result.add_done_callback(partial(self._done, sample))

    def _done(self, sample: Sample, result: asyncio.Future[np.ndarray]) -> None:
        try:
            answer([sample], [result.result()])
        except BaseException as e:
            self._failed(e)


class OverConnections:
    """Server, with a server elsewhere: each sample goes to the next free connection, and the server forms batches."""

    def __init__(self, computes: Sequence[Compute], failed: Failed) -> None:
        self._samples: SimpleQueue[Sample] = SimpleQueue()
        self._failed = failed
        for compute in computes:
            threading.Thread(target=self._work, args=[compute], daemon=True).start()

    def issue(self, samples: Sequence[Sample]) -> None:
        for sample in samples:
            self._samples.put(sample)

    def _work(self, compute: Compute) -> None:
        try:
            while True:
                sample = self._samples.get()
                answer([sample], compute([sample[1]]))
        except BaseException as e:
            self._failed(e)


def as_samples(query: Any) -> list[Sample]:
    """The samples of a query of LoadGen."""
    return [(sample.id, sample.index) for sample in query]
