"""`main`: the entry point of the command `stylert`. How it ends is in `core.programs.runner`."""

from __future__ import annotations

import importlib
import sys

from stylert.core.programs.runner import report_error, run_program
from stylert.core.programs.stop_signals import INTERRUPTED

# Modules that are slow to import are imported in functions, after the handlers of signals are set.

#: Importing a module adds its commands to the application. The order is that of `stylert --help`.
COMMAND_MODULES = (
    "pipeline.commands",
    "doctor",
    "card",
    "latents.commands",
    "latents.directions",
    "latents.encode",
    "latents.encoder",
    "training.commands",
    "bench.commands",
    "serve",
    "web",
    "deploy",
    "provenance",
    "watermark",
    "restoration",
)


#: Commands for which SIGHUP means to read their files again. It waits until they can.
RELOADED_COMMANDS = ("serve",)


def main() -> None:
    """Run the command that the arguments name, and end the process."""
    run_program("stylert", _run_command, sys.argv[1:2] in [[name] for name in RELOADED_COMMANDS], _report)


def _run_command() -> int:
    from stylert.cli.app import app

    for module in COMMAND_MODULES:
        importlib.import_module(f"stylert.cli.{module}")
    status = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    sys.stdout.flush()
    return status if isinstance(status, int) else 0


def _report(program: str, error: Exception) -> int:
    """As `report_error`, in red, and for the errors of Typer as well."""
    from functools import partial

    import typer

    from stylert.cli.console import print_note
    from stylert.core.errors import InputError

    if isinstance(error, typer.Abort):
        return INTERRUPTED
    if isinstance(error, typer.TyperException):
        error = InputError(error.format_message())
    return report_error(program, error, partial(print_note, style="red"))


if __name__ == "__main__":
    main()
