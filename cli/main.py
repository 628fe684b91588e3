"""The command `stylert`.

A mistake of the user ends in one line and exit code 2, Ctrl-C in the line `stopped` and exit code 130.
"""

from __future__ import annotations

import importlib
import os
import sys

#: Exit code after Ctrl-C, as in shells and in Typer.
INTERRUPTED = 130

#: Importing a module adds its commands to the application. The order is that of `stylert --help`.
COMMAND_MODULES = ("pipeline.commands", "doctor", "latents.commands", "training.commands", "bench.commands")


def main() -> None:
    """Run the command that the arguments name, and exit."""
    try:
        status = _run()
    except KeyboardInterrupt:
        status = INTERRUPTED
    if status == INTERRUPTED:
        print("stopped", file=sys.stderr)
    sys.exit(status)


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
        return status if isinstance(status, int) else 0
    except StylertError as e:
        message = str(e)
    except typer.TyperException as e:
        message = e.format_message()
    except typer.Abort:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    print_note(f"stylert: {' '.join(message.split())}", style="red")
    return 2


if __name__ == "__main__":
    main()
