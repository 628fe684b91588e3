"""`stylert`: one command per thing that people do. Mistakes end in one line and exit code 2."""

from __future__ import annotations

import os
import sys

import typer

from stylert.cli import bench_commands, commands, doctor, latent_commands, training_commands  # noqa: F401  (they add their commands to the application)
from stylert.cli.app import app
from stylert.cli.console import errors
from stylert.runtime.errors import StylertError


def main() -> None:
    """Run the command; mistakes of the user print one line and exit 2."""
    try:
        status = app(standalone_mode=False)
    except StylertError as e:
        _fail(str(e))
    except typer.TyperException as e:
        _fail(e.format_message())
    except (typer.Abort, KeyboardInterrupt):
        errors.print("stopped", highlight=False)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str) -> None:
    errors.print(f"stylert: {' '.join(message.split())}", style="red", highlight=False, markup=False, soft_wrap=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
