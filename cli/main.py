"""`stylert`: one command per thing that people do. Mistakes end in one line and exit code 2, Ctrl-C in `stopped` and 130."""

from __future__ import annotations

import os
import sys

#: What shells call the end by Ctrl-C, and Typer too
INTERRUPTED = 130


def main() -> None:
    """Run the command; mistakes of the user print one line and exit 2."""
    try:
        status = _run()
    except KeyboardInterrupt:
        status = INTERRUPTED
    if status == INTERRUPTED:
        print("stopped", file=sys.stderr)
    sys.exit(status)


def _run() -> int:
    # Here, because a Ctrl-C while the commands are being imported is one as well.
    import typer

    # Each module adds its commands to `app`.
    import stylert.cli.bench.commands
    import stylert.cli.doctor
    import stylert.cli.latents.commands
    import stylert.cli.pipeline.commands
    import stylert.cli.training.commands  # noqa: F401
    from stylert.cli.app import app
    from stylert.cli.console import errors
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
    errors.print(f"stylert: {' '.join(message.split())}", style="red", highlight=False, markup=False, soft_wrap=True)
    return 2


if __name__ == "__main__":
    main()
