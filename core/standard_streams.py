"""The standard output and error while native code prints to them.

Descriptors belong to the process, not to a thread. So one thread at a time redirects them. Of two that overlap, the later one would
keep the file of the earlier one as the stream to restore. All later messages would go there.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

STANDARD_OUTPUT = 1
STANDARD_ERROR = 2
#: A color or movement of a terminal.
ESCAPE_CODE = re.compile(rb"\x1b\[[0-9;]*[a-zA-Z]")

_redirection = threading.RLock()


def _after_fork() -> None:
    """A forked child has only one thread, and the lock may be held by another one of its parent."""
    global _redirection
    _redirection = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def silent_stdout() -> Iterator[None]:
    """Discard what is printed on the standard output, where commands print their results. Other threads wait to enter.

    A process may have no standard output, as after `>&-`, or no file behind `sys.stdout`, as in a window without a console.
    """
    with _redirection:
        with suppress(AttributeError, OSError, ValueError):  # sys.stdout is None or closed, or its disk is full
            sys.stdout.flush()
        try:
            kept = os.dup(STANDARD_OUTPUT)
        except OSError:
            kept = None
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            # Also where descriptor 1 is closed. Otherwise the next file to be opened would have this number, and get the lines.
            os.dup2(null, STANDARD_OUTPUT)
            yield
        finally:
            ctypes.CDLL(None).fflush(None)
            if kept is None:
                os.close(STANDARD_OUTPUT)
            else:
                os.dup2(kept, STANDARD_OUTPUT)
                os.close(kept)
            if null != STANDARD_OUTPUT:
                os.close(null)


@contextmanager
def plain_stderr() -> Iterator[None]:
    """Take the escape codes out of what is written to a standard error that is no terminal, and print the rest at the end.

    Other threads wait to enter. Their own messages are printed at the end, too.
    """
    with _redirection:
        try:
            if os.isatty(STANDARD_ERROR):
                raise OSError
            original = os.dup(STANDARD_ERROR)
        except OSError:  # it is a terminal, or closed
            yield
            return
        try:
            with tempfile.TemporaryFile() as file:
                os.dup2(file.fileno(), STANDARD_ERROR)
                try:
                    yield
                finally:
                    os.dup2(original, STANDARD_ERROR)
                    file.seek(0)
                    with suppress(OSError):
                        os.write(STANDARD_ERROR, ESCAPE_CODE.sub(b"", file.read()))
        finally:
            os.close(original)
