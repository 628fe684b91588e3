"""Batches form while the network is busy, in turn between requests, and an error stays with its own item."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np
import pytest

from stylert.core.errors import BackendError
from stylert.runtime.serving.batcher import Batcher
from stylert.runtime.serving.refusals import Overloaded


class Network:
    """Records its batches. It waits for `gate` in each call."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, items: Sequence[int]) -> np.ndarray:
        self.batches.append(list(items))
        assert self.gate.wait(30)
        if any(item < 0 for item in items):
            raise BackendError("negative")
        return np.array(items) * 10


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_an_idle_network_starts_at_once_and_a_busy_one_collects() -> None:
    async def test() -> None:
        network = Network()
        network.gate.clear()
        batcher = Batcher([network], 4, 0.0, 100)
        jobs = [batcher.submit([i]) for i in range(10)]
        await until(lambda: len(network.batches) == 1)
        network.gate.set()
        assert [int(await job.results[0]) for job in jobs] == [10 * i for i in range(10)]
        assert network.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9]]
        await batcher.close()

    run(test)


def test_a_large_request_does_not_hold_up_a_small_one() -> None:
    async def test() -> None:
        network = Network()
        network.gate.clear()
        batcher = Batcher([network], 4, 0.0, 100)
        large = batcher.submit(list(range(20)))
        await until(lambda: len(network.batches) == 1)
        small = batcher.submit([99])
        network.gate.set()
        await small.results[0]
        assert 99 in network.batches[1]
        assert [int(await result) for result in large.results] == [10 * i for i in range(20)]
        await batcher.close()

    run(test)


def test_a_delay_fills_the_batch_of_an_idle_network() -> None:
    async def test() -> None:
        network = Network()
        batcher = Batcher([network], 3, 30.0, 100)
        jobs = [batcher.submit([i]) for i in range(3)]  # the third fills the batch, long before the delay ends
        await asyncio.gather(*(job.results[0] for job in jobs))
        assert network.batches == [[0, 1, 2]]
        short = Batcher([network], 3, 0.02, 100)
        assert int(await short.submit([5]).results[0]) == 50
        for each in (batcher, short):
            await each.close()

    run(test)


def test_a_full_queue_refuses_and_names_a_time() -> None:
    async def test() -> None:
        network = Network()
        network.gate.clear()
        batcher = Batcher([network], 2, 0.0, 5)
        first = batcher.submit([1])
        held = batcher.submit([2, 3, 4, 5, 6])
        with pytest.raises(Overloaded) as refused:
            batcher.submit([7])
        assert (refused.value.status, int(refused.value.headers["Retry-After"]) >= 1) == (503, True)
        batcher.cancel(held)
        assert batcher.waiting == 0
        last = batcher.submit([8])
        network.gate.set()
        assert [int(await first.results[0]), int(await last.results[0])] == [10, 80]
        assert network.batches == [[1], [8]]  # what was cancelled was not computed
        await batcher.close()

    run(test)


def test_an_error_reaches_its_own_item_alone() -> None:
    async def test() -> None:
        network = Network()
        network.gate.clear()
        batcher = Batcher([network], 8, 0.0, 100)
        jobs = [batcher.submit([i]) for i in (1, 2, -3, 4)]
        await until(lambda: len(network.batches) == 1)
        network.gate.set()
        results = await asyncio.gather(*(job.results[0] for job in jobs), return_exceptions=True)
        assert [int(r) for r in results if not isinstance(r, BaseException)] == [10, 20, 40]
        assert isinstance(results[2], BackendError)
        await batcher.close()

    run(test)


def test_closing_finishes_what_was_taken_and_refuses_more() -> None:
    async def test() -> None:
        network = Network()
        network.gate.clear()
        batcher = Batcher([network], 2, 10.0, 100)
        jobs = [batcher.submit([i, i]) for i in range(3)]
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0.01)
        with pytest.raises(BackendError, match="closed"):
            batcher.submit([1])
        assert not closing.done()
        network.gate.set()
        await closing
        assert all(result.done() for job in jobs for result in job.results)

    run(test)


def test_a_call_that_does_not_return_refuses_all_that_wait_until_it_does() -> None:
    async def test() -> None:
        network = Network()
        network.gate.clear()
        batcher = Batcher([network], 1, 0.0, 100, max_call=0.05)
        jobs = [batcher.submit([i, i]) for i in range(3)]
        refused = await asyncio.gather(*(result for job in jobs for result in job.results), return_exceptions=True)
        assert [type(error) for error in refused] == [Overloaded] * 6
        assert (batcher.is_hung, batcher.waiting) == (True, 0)
        with pytest.raises(Overloaded, match="has not returned"):
            batcher.submit([7])
        network.gate.set()
        await until(lambda: not batcher.is_hung)
        assert int(await batcher.submit([8]).results[0]) == 80
        assert network.batches == [[0], [8]]
        await batcher.close()

    run(test)


def test_one_hung_call_of_two_leaves_the_other_and_closing_waits_for_none() -> None:
    async def test() -> None:
        network, gate = Network(), threading.Event()

        def compute(items: Sequence[int]) -> Sequence[int]:
            if items[0] < 0:
                gate.wait(30)
            return network(items)  # type: ignore[return-value]

        batcher = Batcher([compute] * 2, 1, 0.0, 100, max_call=0.05)
        with pytest.raises(Overloaded):
            await batcher.submit([-1]).results[0]
        assert not batcher.is_hung
        assert int(await batcher.submit([5]).results[0]) == 50
        await batcher.close()
        gate.set()

    run(test)


def test_an_item_that_is_alone_gets_the_whole_processor_and_several_are_spread_over_the_calls() -> None:
    async def test() -> None:
        whole, narrow = Network(), Network()
        for network in (whole, narrow):
            network.gate.clear()
        batcher = Batcher([narrow, narrow], 4, 0.0, 100, whole)
        jobs = [batcher.submit([i]) for i in range(7)]
        await until(lambda: len(whole.batches) == 1)
        assert (whole.batches, narrow.batches, batcher.running) == ([[0]], [], 1)
        whole.gate.set()
        await until(lambda: len(narrow.batches) == 2)
        assert sorted(narrow.batches) == [[1, 2, 3], [4, 5, 6]]
        narrow.gate.set()
        assert [int(await job.results[0]) for job in jobs] == [10 * i for i in range(7)]
        assert int(await batcher.submit([9]).results[0]) == 90
        assert whole.batches == [[0], [9]]
        await batcher.close()

    run(test)


def test_a_lone_call_that_hangs_is_the_end_of_all_calls() -> None:
    async def test() -> None:
        whole, narrow = Network(), Network()
        whole.gate.clear()
        batcher = Batcher([narrow, narrow], 4, 0.0, 100, whole, max_call=0.05)
        jobs = [batcher.submit([i]) for i in range(3)]
        for job in jobs:
            with pytest.raises(Overloaded, match="has not returned"):
                await job.results[0]
        assert batcher.is_hung
        whole.gate.set()
        await until(lambda: not batcher.is_hung)
        assert int(await batcher.submit([4]).results[0]) == 40
        await batcher.close()

    run(test)
