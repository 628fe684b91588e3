"""Python interpreters that this package starts import nothing from the working folder.

Python puts the working folder first on the path of modules for `-c` and `-m`. A file `pickle.py` that lies beside somebody's
pictures would then run. So every interpreter starts with `-P`, or with the environment that means the same.

A process that reads hostile files with a native library limits its own memory and time, so that no file takes the machine. It ends
with the process that started it.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from stylert.core.errors import BackendError

VARIABLE = "PYTHONSAFEPATH"
PR_SET_PDEATHSIG = 1


def python_command(*arguments: object) -> list[str]:
    """The command line of an interpreter with these arguments, such as `-m` and a module."""
    return [sys.executable, "-P", *map(str, arguments)]


def check_status(name: str, status: int) -> None:
    """Check the exit status of a program of ours that prints its errors to the same stderr. So a refusal stays one line.

    Args:
        name: Name of the program, for the message.
        status: Exit status, negative for the number of a signal.

    Raises:
        SystemExit: The program failed and has said why. The exit code is its own.
        BackendError: A signal ended it.
    """
    if status < 0:
        raise BackendError(f"{name} was ended by a signal: {signal.strsignal(-status)}")
    if status:
        sys.exit(status)


@contextmanager
def safe_path() -> Iterator[None]:
    """Interpreters that a library starts within the block, as multiprocessing does, leave the working folder out, too."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before


def limit_memory(max_bytes: int) -> None:
    """Let this process allocate at most so many bytes, and write no core file. Files that are mapped into memory do not count."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = max_bytes if hard == resource.RLIM_INFINITY else min(max_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def limit_cpu_time(seconds: float) -> None:
    """Allow so many seconds of the processor from now on. After them SIGPROF ends this process, also inside of a library.

    Waiting for a slow disk does not count.
    """
    signal.setitimer(signal.ITIMER_PROF, seconds)


def end_with_parent() -> None:
    """Get SIGTERM when the parent is killed, in place of working on for nobody. Only Linux has this."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
