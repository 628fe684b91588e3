"""A signal that stops a run: SIGTERM, or SIGINT from Ctrl-C."""

from __future__ import annotations

import signal
import threading


class StopRequest:
    """Turns SIGTERM and SIGINT into a flag while the loop runs. Outside of the main thread it changes no handlers.

    Attributes:
        requested: Whether a signal has come.
        interrupts: Whether a signal also raises KeyboardInterrupt, to leave a call that takes long.
    """

    requested = False
    interrupts = False

    def __enter__(self) -> None:
        # Python allows signal handlers in the main thread only.
        is_main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGTERM, signal.SIGINT) if is_main else ()
        self.previous = {number: signal.signal(number, self._handle) for number in numbers}

    def _handle(self, *_: object) -> None:
        self.requested = True
        if self.interrupts:
            raise KeyboardInterrupt

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
