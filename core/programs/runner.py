"""`run_program` runs a function as a program: the command `stylert`, an example, or a benchmark.

Errors and signals become one line and an exit code. A mistake of the user ends with exit code 2, Ctrl-C with the line `stopped` and
130, SIGTERM with 143.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from typing import TextIO

from stylert.core.programs.stop_signals import INTERRUPTED, StopSignals

# Modules that are slow to import are imported in functions, after the handlers of signals are set.

#: Characters of an error. A longer one quotes a file.
MAX_MESSAGE = 2000


def run_program(
    name: str,
    command: Callable[[], int | None],
    hold_hangup: bool = False,
    report: Callable[[str, Exception], int] | None = None,
) -> None:
    """Run a function as a command, and end the process. The handlers of signals stay until it has ended.

    Args:
        name: Name of the program, before its errors.
        command: Returns the exit code; None is 0.
        hold_hangup: As in `StopSignals`.
        report: Prints an error that the function raised, and returns the exit code; None for `report_error`.
    """
    stop = StopSignals(hold_hangup)
    status = 1  # of a traceback
    try:
        stop.take()
        status = _run(name, command, stop, report or report_error)
    except KeyboardInterrupt:
        stop.is_ending = True  # nothing is called before, so no second signal comes between
        status = INTERRUPTED
    finally:
        stop.is_ending = True
        if status == INTERRUPTED:
            status = stop.exit_code
            # Python notes KeyboardInterrupt that leaves code given as text, as in dataclasses, and would end `python -m` by SIGINT.
            # The next such code takes the note back.
            exec("")
            with contextlib.suppress(OSError):
                print("stopped", file=sys.stderr)
        for stream in (sys.stdout, sys.stderr):
            _empty(stream)
        stop.end(status)
    sys.exit(status)


def _run(name: str, command: Callable[[], int | None], stop: StopSignals, report: Callable[[str, Exception], int]) -> int:
    from stylert.core.child_processes import safe_path

    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that the encoding lacks is printed as its number
            stream.reconfigure(errors="backslashreplace")
    try:
        with safe_path():
            return command() or 0
    except SystemExit as e:
        if isinstance(e.code, str):
            raise
        return e.code or 0
    except Exception as e:
        # Libraries turn KeyboardInterrupt into errors of their own.
        return INTERRUPTED if stop.was_raised else report(name, e)


def _open_standard_streams() -> None:
    """Open those of the three standard descriptors that are closed, as after `>&-`, to nowhere.

    Otherwise the next file that is opened would get the descriptor, and all that a library prints would be in it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free descriptor, which is this one
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def report_error(name: str, error: Exception, print_error: Callable[[str], None] | None = None) -> int:
    """Print the line of an error, and return the exit code. Raises the error itself if it is a fault of stylert.

    Args:
        name: Name of the program, before the line.
        error: The error.
        print_error: Prints the line; None prints it to stderr.
    """
    from stylert.core.errors import StylertError, printable

    match error:
        case BrokenPipeError():
            _discard(sys.stdout)
            return 1
        case StylertError():
            message = str(error)
        case OSError():
            message = _system_message(error)
        case MemoryError():
            message = "not enough memory"
        case ModuleNotFoundError():
            message = _missing_package_message(error)
        case ImportError():
            message = _unloadable_library_message(error)
        case RuntimeError() if "can't start new thread" in str(error):  # Python has no class for it
            message = "cannot start a thread: the memory or the number of threads is limited"
        case _:
            raise error
    line = f"{name}: {_shortened(' '.join(message.split()))}"
    if print_error is not None:
        print_error(line)
    else:
        with contextlib.suppress(OSError):
            print(printable(line), file=sys.stderr)
    return 2


def _shortened(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]}..."


def _empty(stream: TextIO) -> None:
    """Write what a stream still holds. If that fails, Python does not try it again at its end, with an exit code of its own."""
    try:
        stream.flush()
    except (OSError, ValueError):
        _discard(stream)


def _discard(stream: TextIO) -> None:
    """Send what is still printed to a stream nowhere."""
    with contextlib.suppress(OSError, ValueError):  # a closed stream has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _system_message(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    if reason.startswith("No usable temporary directory"):  # Python tries to write a file in each
        reason = f"no folder for temporary files can be written: is the disk full? Tried {reason.partition('found in ')[2]}"
    return f"{error.filename}: {reason}" if isinstance(error.filename, str) else reason


def _missing_package_message(error: ModuleNotFoundError) -> str:
    """The command that installs an optional package. Raises the error itself for a package that stylert does not name."""
    import re
    from importlib.metadata import requires

    from stylert.core.errors import install_command

    package = (error.name or "").partition(".")[0].replace("_", "-")
    for requirement in requires("stylert") or []:
        optional = re.match(r'([\w-]+).*extra == "([\w-]+)"', requirement)
        if optional is not None and optional[1] == package != "stylert":  # some extras of stylert bring others
            return f"this needs {package}: {install_command(optional[2])}"
    raise error


def _unloadable_library_message(error: ImportError) -> str:
    """The reason why the system cannot load a native library, as under a memory limit. Other errors are raised again."""
    if error.path is None or not error.path.endswith(".so"):
        raise error
    return f"a library cannot be loaded: {error}"
