"""Threads for the processor's work beside the event loop: large bodies, picture files, large answers.

The event loop answers every client. So it does no work whose time grows with a request, but for small ones: a hop to a thread and
back costs more than they do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
Result = TypeVar("Result")

#: Bytes that the event loop itself reads or writes: below a millisecond of work.
SMALL = 32 * 1024


class HostWork:
    """Runs functions in a few threads.

    Args:
        threads: Number of threads. It bounds the memory of this work as well as its share of the cores.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="stylert-work")

    async def run(self, function: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        """The result of a call in one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*args, **kwargs))

    async def run_if_large(self, size: int, function: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        """The result of a call whose work grows with `size` bytes: at once if they are few, else in one of the threads."""
        return function(*args, **kwargs) if size <= SMALL else await self.run(function, *args, **kwargs)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
