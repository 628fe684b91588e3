"""A signal that stops a run: SIGTERM, SIGINT from Ctrl-C, or SIGHUP from a terminal that is closed."""

from __future__ import annotations

import signal
import threading

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StopRequest:
    """Turns the signals that stop a run into a flag while the loop runs. Outside of the main thread it changes no handlers.

    A signal that is ignored, as SIGHUP by nohup, stays ignored.

    Attributes:
        requested: Whether a signal has come.
        interrupts: Whether a signal also raises KeyboardInterrupt, to leave a call that takes long.
    """

    requested = False
    interrupts = False

    def __enter__(self) -> None:
        # Python allows signal handlers in the main thread only.
        is_main = threading.current_thread() is threading.main_thread()
        # None stands for a handler that is not of Python. It could not be restored.
        numbers = [n for n in STOP_SIGNALS if is_main and signal.getsignal(n) not in (signal.SIG_IGN, None)]
        self.previous = {number: signal.signal(number, self._handle) for number in numbers}

    def _handle(self, *_: object) -> None:
        self.requested = True
        if self.interrupts:
            raise KeyboardInterrupt

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
