"""The command `stylert`.

A mistake of the user ends in one line and exit code 2, Ctrl-C in the line `stopped` and exit code 130.
"""

from __future__ import annotations

import os
import sys

#: Exit code after Ctrl-C, as in shells and in Typer.
INTERRUPTED = 130


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

    # Each module adds its commands to `app`.
    import stylert.cli.bench.commands
    import stylert.cli.doctor
    import stylert.cli.latents.commands
    import stylert.cli.pipeline.commands
    import stylert.cli.training.commands  # noqa: F401
    from stylert.cli.app import app
    from stylert.cli.console import print_note
    from stylert.core.errors import StylertError

    try:
        status = app(standalone_mode=False)
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
