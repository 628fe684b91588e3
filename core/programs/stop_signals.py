"""The signals that stop a program: each becomes KeyboardInterrupt, so that every `finally` runs.

This module imports little. Until its handlers are set, Ctrl-C ends Python with a traceback. So a program whose imports are slow
begins with `end_quietly`, before them.
"""

from __future__ import annotations

import _thread
import atexit
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

#: Exit code after Ctrl-C, as in shells and in Typer.
INTERRUPTED = 128 + signal.SIGINT

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: Seconds until a signal is tried again whose exception Python has discarded.
RETRY_SECONDS = 0.01


def end_quietly() -> None:
    """Until `StopSignals.take`, let a signal end this process at once, with `stopped` and its exit code.

    For a program that still imports its modules. It has nothing to clean up.
    """
    _set_handlers(_end_now)


class StopSignals:
    """Raises KeyboardInterrupt in the main thread for each signal that stops a process.

    A signal changes nothing while an earlier KeyboardInterrupt is on its way. So cleaning up is not interrupted. Python discards the
    exceptions of some functions, such as `__del__` and the callbacks of weak references. A signal that comes there is tried again.
    A library may also discard an exception, which nobody can see. The next signal then counts.

    Args:
        hold_hangup: Whether SIGHUP waits until the command has a handler of its own for it, or has ended.

    Attributes:
        exit_code: Exit code for the last signal that raised KeyboardInterrupt.
        was_raised: Whether a signal has raised KeyboardInterrupt.
        is_ending: Whether the command has ended. Then a signal changes nothing.
        status: Exit code of the process, once all is printed. From then on a signal ends the process with it at once.
    """

    exit_code: int = INTERRUPTED
    was_raised = False
    is_ending = False
    status: int | None = None

    def __init__(self, hold_hangup: bool = False) -> None:
        self._held: set[int] = {signal.SIGHUP} if hold_hangup else set()
        self._previous_hook = sys.unraisablehook

    def take(self) -> None:
        """Set the handlers, for the rest of the process. A signal that is ignored, as by nohup, stays ignored."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self._held)
        sys.unraisablehook = self._on_discarded
        _set_handlers(self._handle)
        # The first to be registered is the last to be called. Python then takes its modules apart, and calls no handler any more.
        atexit.unregister(_ignore)
        atexit.register(_ignore)

    def end(self, status: int) -> None:
        """Let a signal end the process with this exit code. All is printed."""
        self.status = status
        held, self._held = self._held, set()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, held)
        sys.unraisablehook = self._previous_hook

    def _handle(self, number: int, _: object) -> None:
        if self.status is not None:
            os._exit(self.status)  # also where a thread does not end
        if number in self._held:  # it came to a thread that was started before
            signal.pthread_kill(_thread.get_ident(), number)
        elif not self.is_ending and not _has_interrupt(sys.exception()):
            self.exit_code = 128 + number
            self.was_raised = True
            raise KeyboardInterrupt

    def _on_discarded(self, discarded: sys.UnraisableHookArgs) -> None:
        if not _has_interrupt(discarded.exc_value):
            self._previous_hook(discarded)
            return
        # Not `threading.Thread`: the interrupted code may hold its locks.
        try:
            _thread.start_new_thread(_send_again, (self.exit_code - 128, _thread.get_ident()))
        except RuntimeError:  # no memory for a thread; the next signal counts
            return


def _set_handlers(handler: Callable[[int, FrameType | None], object]) -> None:
    for number in STOP_SIGNALS:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, handler)


def _end_now(number: int, _: object) -> None:
    try:
        os.write(2, b"stopped\n")  # no stream of Python: the signal may have come in the middle of another write
    finally:
        os._exit(128 + number)


def _has_interrupt(error: BaseException | None) -> bool:
    """Whether an error is KeyboardInterrupt, or was raised while one was handled."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _send_again(number: int, thread: int) -> None:
    time.sleep(RETRY_SECONDS)
    signal.pthread_kill(thread, number)


def _ignore() -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
