"""Networks of a process that forks.

A child process has a copy of the memory of its parent, but none of its threads. A library that computes in threads of its own waits
for them without end. ONNX Runtime does not: it then computes in the calling thread. But also its networks wait for their threads
when they are freed. So a child never frees the networks of its parent.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import Protocol

from stylert.core.errors import BackendError


class Forks(Protocol):
    """An object to tell that it is in a child process now."""

    def after_fork(self) -> None: ...


class ForkGuard:
    """Refuses the use of a library in a child of the process that has used it.

    Args:
        library: Its name, for the message.
    """

    def __init__(self, library: str) -> None:
        self._library, self._used, self._refuses = library, False, False
        tell_after_fork(self)

    def enter(self) -> None:
        """Record that the library is used in this process.

        Raises:
            BackendError: The process from which this one was forked has used it.
        """
        if self._refuses:
            raise BackendError(
                f"{self._library} was used before this process was forked, and cannot run here; start processes by spawn, "
                "or load the generator in the children alone"
            )
        self._used = True

    def after_fork(self) -> None:
        self._refuses = self._refuses or self._used


def tell_after_fork(listener: Forks) -> None:
    """Have `listener.after_fork` called in every child that this process forks, as long as the listener lives."""
    _LISTENERS.add(listener)


def never_free(value: object) -> None:
    """Keep an object until the process is gone. Not even the end of Python frees it."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))


def _after_fork() -> None:
    for listener in list(_LISTENERS):
        listener.after_fork()


_LISTENERS: weakref.WeakSet[Forks] = weakref.WeakSet()
os.register_at_fork(after_in_child=_after_fork)
