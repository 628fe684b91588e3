"""The number of running calls, which `Generator.close` waits for."""

from __future__ import annotations

import threading

from stylert.core.errors import BackendError


class InFlight:
    """The number of running calls. Each call enters this as a context; `stop` refuses further calls."""

    def __init__(self) -> None:
        self._running, self._stopped = 0, False
        self._change = threading.Condition()

    def __enter__(self) -> None:
        with self._change:
            if self._stopped:
                raise BackendError("this generator is closed; load it again")
            self._running += 1

    def __exit__(self, *error: object) -> None:
        with self._change:
            self._running -= 1
            self._change.notify_all()

    def after_fork(self) -> None:
        """Forget the running calls. They belong to threads of the parent process."""
        self._running, self._change = 0, threading.Condition()

    def stop(self) -> bool:
        """Refuse further calls and wait for the running ones. Returns True to the first caller only."""
        with self._change:
            is_first = not self._stopped
            self._stopped = True
            self._change.wait_for(lambda: self._running == 0)
            return is_first
