"""Dynamic batching: images of several requests share one call of the network.

An idle network starts at once with the images that are there. The images that arrive while it runs form the next batch. So a
request waits for no other request unless the network is busy, and batches grow with the load.

The images of a batch come from the waiting requests in turn. So a request of many images does not hold up a request of one.

A processor can run one call with all threads, or several at the same time with few threads each (`network_calls`). One call has its
image earlier, and several make more images per second. So an image that is alone gets all threads, and several images are spread
over the calls with few.

A call that does not return cannot be ended, since native code runs in its thread. After a time it counts as hung: its requests and
those that wait are refused, as are new ones, until it returns after all.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Generic, TypeVar

from stylert.core.errors import BackendError
from stylert.runtime.serving.refusals import Overloaded

LOG = logging.getLogger("stylert.serving")

Item = TypeVar("Item")
Result = TypeVar("Result")
#: Maps items to their images.
Compute = Callable[[Sequence[Item]], Sequence[Result]]
#: Called after each batch with its size, the seconds that its first image waited, and the seconds of the network.
Observer = Callable[[int, float, float], None]

#: Weight of the last batch in the mean time per image, from which `Retry-After` is computed.
SMOOTHING = 0.1
MAX_RETRY_AFTER = 60


@dataclass(eq=False)
class Job(Generic[Item, Result]):
    """The images of one request.

    Attributes:
        results: A future per image. Await them in any order.
    """

    results: list[asyncio.Future[Result]]
    waiting: deque[tuple[Item, asyncio.Future[Result]]]
    arrival: float = field(default_factory=time.perf_counter)


class Batcher(Generic[Item, Result]):
    """Runs functions on batches of items that come from many requests.

    All methods but the constructor belong to one event loop.

    Args:
        computes: The functions that may run at the same time, each in one call. They are called in threads.
        max_batch: Items in a call.
        max_delay: Seconds that an item may wait for others, though the network is idle.
        max_queue: Items that wait.
        alone: Takes an item while no other waits and no call runs; then no other call begins. None leaves it to `computes`.
            With it, the waiting items are spread over all calls that may begin.
        max_call: Seconds after which a call counts as hung.
        observe: Called after each batch, in the event loop.
    """

    def __init__(
        self,
        computes: Sequence[Compute[Item, Result]],
        max_batch: int,
        max_delay: float,
        max_queue: int,
        alone: Compute[Item, Result] | None = None,
        max_call: float = 60.0,
        observe: Observer = lambda *_: None,
    ) -> None:
        self._free, self._alone, self._observe = list(computes), alone, observe
        self._max_batch, self._max_delay, self._max_queue, self._concurrency = max_batch, max_delay, max_queue, len(computes)
        self._max_call = max_call
        self._jobs: deque[Job[Item, Result]] = deque()
        self._waiting = 0
        self._running: set[_Call[Item, Result]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._seconds_per_item = 0.0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        for _ in computes:  # a process does not wait for a daemon thread, so a hung call does not keep it
            threading.Thread(target=_run_calls, args=[self._calls], name="stylert-batch", daemon=True).start()

    @property
    def waiting(self) -> int:
        """Number of items that wait."""
        return self._waiting

    @property
    def running(self) -> int:
        """Number of calls that run."""
        return len(self._running)

    @property
    def is_hung(self) -> bool:
        """Whether every call that may run at a time is one that does not return."""
        return sum(len(call.computes) for call in self._running if call.is_hung) == self._concurrency

    def submit(self, items: Sequence[Item]) -> Job[Item, Result]:
        """Add the items of one request to the queue.

        Raises:
            Overloaded: The queue has no room for them, or the network hangs.
            BackendError: The batcher is closed.
        """
        if self._closed:
            raise BackendError("this model is closed")
        if self.is_hung:
            raise self._hung_error()
        if self._waiting + len(items) > self._max_queue:
            raise Overloaded(f"{self._waiting} images are waiting, and the queue holds {self._max_queue}", self.retry_after())
        loop = asyncio.get_running_loop()
        results: list[asyncio.Future[Result]] = [loop.create_future() for _ in items]
        job = Job(results, deque(zip(items, results, strict=True)))
        self._jobs.append(job)
        self._waiting += len(items)
        self._idle.clear()
        self._dispatch()
        return job

    def cancel(self, job: Job[Item, Result]) -> None:
        """Forget the items of a job that no call has begun with."""
        self._waiting -= len(job.waiting)
        job.waiting.clear()
        for result in job.results:
            result.cancel()
        self._settle()

    def retry_after(self) -> int:
        """Whole seconds after which the items that wait now will be done, by the mean time of the last ones."""
        seconds = self._waiting * self._seconds_per_item / self._concurrency
        return min(max(1, math.ceil(seconds)), MAX_RETRY_AFTER)

    async def close(self) -> None:
        """Refuse further items, and wait until those that were taken are done. Hung calls are not waited for."""
        self._closed = True
        self._dispatch()
        await self._idle.wait()
        for _ in range(self._concurrency):
            self._calls.put(None)

    def _dispatch(self) -> None:
        while self._waiting and self._free:
            if (delay := self._missing_delay()) > 0:
                if self._timer is None:
                    self._timer = asyncio.get_running_loop().call_later(delay, self._after_delay)
                return
            self._start()

    def _missing_delay(self) -> float:
        """Seconds for which the next batch should still wait for more items."""
        if self._closed or not self._max_delay or self._waiting >= self._max_batch:
            return 0.0
        oldest = min(job.arrival for job in self._jobs if job.waiting)
        return oldest + self._max_delay - time.perf_counter()

    def _after_delay(self) -> None:
        self._timer = None
        self._dispatch()

    def _next_call(self) -> _Call[Item, Result]:
        """The function of the next call, with its items."""
        if self._alone is not None and self._waiting == 1 and not self._running:
            reserved, self._free = self._free, []
            return _Call(self._alone, reserved, self._take(1))
        spread = 1 if self._alone is None else len(self._free)
        count = min(self._max_batch, math.ceil(self._waiting / spread))
        compute = self._free.pop()
        return _Call(compute, [compute], self._take(count))

    def _take(self, count: int) -> list[tuple[Item, asyncio.Future[Result], float]]:
        """The items of the next batch with their arrival, one from each job in turn."""
        batch: list[tuple[Item, asyncio.Future[Result], float]] = []
        while self._waiting and len(batch) < count:
            job = self._jobs.popleft()
            if job.waiting:
                item, result = job.waiting.popleft()
                self._waiting -= 1
                batch.append((item, result, job.arrival))
            if job.waiting:
                self._jobs.append(job)
        return batch

    def _start(self) -> None:
        call = self._next_call()
        self._running.add(call)
        waited = time.perf_counter() - min(arrival for _, _, arrival in call.batch)
        loop = asyncio.get_running_loop()
        limit = loop.call_later(self._max_call, self._overdue, call)

        def done(images: list[Result | Exception], seconds: float) -> None:
            self._running.remove(call)
            self._free += call.computes
            limit.cancel()
            per_item = seconds / len(images)
            self._seconds_per_item += (per_item - self._seconds_per_item) * (SMOOTHING if self._seconds_per_item else 1)
            for result, image in zip(call.results, images, strict=True):
                if result.done():  # its client is gone
                    continue
                if isinstance(image, Exception):
                    result.set_exception(image)
                else:
                    result.set_result(image)
            self._observe(len(images), waited, seconds)
            self._dispatch()
            self._settle()

        def run() -> None:
            images, seconds = call.run()
            with suppress(RuntimeError):  # the loop ended before a hung call
                loop.call_soon_threadsafe(done, images, seconds)

        self._calls.put(run)

    def _overdue(self, call: _Call[Item, Result]) -> None:
        """Refuse the requests of a call that does not return, and if no other call can run, those that wait."""
        LOG.error(
            "a call of the network does not return", extra={"facts": {"images": len(call.results), "seconds": self._max_call}}
        )
        call.is_hung = True
        _refuse(call.results, self._hung_error())
        if self.is_hung:
            for job in self._jobs:
                _refuse([result for _, result in job.waiting], self._hung_error())
                job.waiting.clear()
            self._waiting = 0
        self._settle()

    def _hung_error(self) -> Overloaded:
        return Overloaded(f"a call of the network has not returned within {self._max_call:g} s", MAX_RETRY_AFTER)

    def _settle(self) -> None:
        if not self._waiting and all(call.is_hung for call in self._running):
            self._jobs.clear()
            self._idle.set()


@dataclass(eq=False)
class _Call(Generic[Item, Result]):
    """A call of a network.

    Attributes:
        compute: The function that is called.
        computes: Those that cannot begin a call as long as it runs.
        batch: The items, each with the future that it owes and its arrival.
        is_hung: Whether it has run for too long.
    """

    compute: Compute[Item, Result]
    computes: list[Compute[Item, Result]]
    batch: list[tuple[Item, asyncio.Future[Result], float]]
    is_hung: bool = False

    @property
    def results(self) -> list[asyncio.Future[Result]]:
        return [result for _, result, _ in self.batch]

    def run(self) -> tuple[list[Result | Exception], float]:
        """The image of each item or its error, and the seconds. If the batch fails, its items run one by one."""
        begin = time.perf_counter()
        items = [item for item, _, _ in self.batch]
        images = self._images(items)
        return images, time.perf_counter() - begin

    def _images(self, items: list[Item]) -> list[Result | Exception]:
        try:
            return list(self.compute(items))
        except Exception as e:
            # One item must not fail those of other requests. Single items also need the least memory.
            return [e] if len(items) == 1 else [self._images([item])[0] for item in items]


def _refuse(results: Sequence[asyncio.Future[Result]], error: Exception) -> None:
    for result in results:
        if not result.done():
            result.set_exception(error)


def _run_calls(calls: SimpleQueue[Callable[[], None] | None]) -> None:
    while (call := calls.get()) is not None:
        call()
