"""`main`: the entry point of the command `stylert`. It turns errors and signals into one line and an exit code.

A mistake of the user ends with exit code 2, Ctrl-C with the line `stopped` and 130, SIGTERM with 143.
"""

from __future__ import annotations

import importlib
import io
import os
import re
import signal
import sys
from typing import TextIO

from stylert.core.child_processes import safe_path

#: Exit code after Ctrl-C, as in shells and in Typer.
INTERRUPTED = 128 + signal.SIGINT

#: Signals that end the command as Ctrl-C does.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP)

#: Characters of an error. A longer one quotes a file.
MAX_MESSAGE = 2000

#: Importing a module adds its commands to the application. The order is that of `stylert --help`.
COMMAND_MODULES = (
    "pipeline.commands",
    "doctor",
    "card",
    "latents.commands",
    "latents.directions",
    "training.commands",
    "bench.commands",
    "serve",
    "web",
    "deploy",
    "provenance",
    "watermark",
)


def main() -> None:
    """Run the command that the arguments name, and exit."""
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that the encoding lacks is printed as its number
            stream.reconfigure(errors="backslashreplace")
    stop = _StopSignals()
    try:
        with stop, safe_path():
            status = _run()
    except KeyboardInterrupt:
        status = INTERRUPTED
    if status == INTERRUPTED:
        status = stop.exit_code
        print("stopped", file=sys.stderr)
    sys.exit(status)


def _open_standard_streams() -> None:
    """Open those of the three standard descriptors that are closed, as after `>&-`, to nowhere.

    Otherwise the next file that is opened would get the descriptor, and all that a library prints would be in it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free descriptor, which is this one
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


class _StopSignals:
    """Turns the signals that stop a process into KeyboardInterrupt, so that every `finally` runs. A second one changes nothing."""

    exit_code = INTERRUPTED

    def __enter__(self) -> None:
        # A signal that is ignored, as by nohup, stays ignored.
        self._previous = {n: signal.getsignal(n) for n in STOP_SIGNALS if signal.getsignal(n) == signal.SIG_DFL}
        for number in self._previous:
            signal.signal(number, self._handle)

    def _handle(self, number: int, _: object) -> None:
        if self.exit_code == INTERRUPTED:
            self.exit_code = 128 + number
            raise KeyboardInterrupt

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def _run() -> int:
    # Imported here, so that `main` also catches a Ctrl-C during the imports.
    import typer

    from stylert.cli.app import app
    from stylert.cli.console import print_note
    from stylert.core.errors import StylertError

    for module in COMMAND_MODULES:
        importlib.import_module(f"stylert.cli.{module}")
    try:
        status = app(sys.argv[1:] or ["--help"], standalone_mode=False)
        _flush(sys.stdout)
        return status if isinstance(status, int) else 0
    except StylertError as e:
        message = str(e)
    except typer.TyperException as e:
        message = e.format_message()
    except typer.Abort:
        return INTERRUPTED
    except BrokenPipeError:
        _discard(sys.stdout)
        return 1
    except OSError as e:
        message = _system_message(e)
    except MemoryError:
        message = "not enough memory"
    except ModuleNotFoundError as e:
        message = _missing_package_message(e)
    except ImportError as e:
        message = _unloadable_library_message(e)
    except RuntimeError as e:
        if "can't start new thread" not in str(e):  # Python has no class for it
            raise
        message = "cannot start a thread: the memory or the number of threads is limited"
    print_note(f"stylert: {_shortened(' '.join(message.split()))}", style="red")
    try:
        _flush(sys.stdout)
    except (OSError, StylertError):
        _discard(sys.stdout)  # otherwise Python fails on it again at its end
    return 2


def _shortened(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]}..."


def _flush(stream: TextIO | None) -> None:
    if stream is not None:
        stream.flush()


def _discard(stream: TextIO | None) -> None:
    """Send what is still printed to a stream nowhere."""
    if stream is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _system_message(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    if reason.startswith("No usable temporary directory"):  # Python tries to write a file in each
        reason = f"no folder for temporary files can be written: is the disk full? Tried {reason.partition('found in ')[2]}"
    return f"{error.filename}: {reason}" if isinstance(error.filename, str) else reason


def _missing_package_message(error: ModuleNotFoundError) -> str:
    """The command that installs an optional package. Raises the error itself for a package that stylert does not name."""
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


if __name__ == "__main__":
    main()
