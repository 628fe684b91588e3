"""Output of the command line: lines, tables and progress bars.

Names of files and texts from files may hold anything. They are printed by `printable`, and never read as markup of Rich.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from stylert.core.errors import OutputError, printable
from stylert.core.progress import Progress


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave the error to the caller. Rich itself would send stdout nowhere and end the process, also if stderr has no reader."""
        raise


#: Results go to stdout. A pipe or a file has no width, so its lines are not cut at 80 columns.
console = _Console() if Console().is_terminal else _Console(width=160)
#: Progress, notes and errors go to stderr.
errors = _Console(stderr=True)

SECONDS_BETWEEN_LINES = 30


def print_line(text: str, style: str | None = None) -> None:
    """Print one line of a result to stdout, without line breaks of its own.

    Raises:
        OutputError: Standard output cannot be written.
    """
    _print_result(Text(printable(text), style=style or ""))


def print_note(text: str, style: str | None = None) -> None:
    """Print one line to stderr, where it does not mix with results. A full disk behind stderr does not end the command."""
    with contextlib.suppress(OSError):
        errors.print(Text(printable(text), style=style or ""), soft_wrap=True)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table.

    Args:
        title: Line above the table.
        columns: Names. A name that starts with `<` is a column of text, aligned to the left; others hold numbers.
        rows: One value per column.

    Raises:
        OutputError: Standard output cannot be written.
    """
    table = Table(title=Text(printable(title), style="table.title"), title_justify="left", box=None, pad_edge=False)
    table.header_style = "bold"
    for column in columns:
        table.add_column(column.lstrip("<"), justify="left" if column.startswith("<") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    _print_result(table, soft_wrap=False)


@contextmanager
def progress() -> Iterator[Progress]:
    """Show the progress of a long call on stderr, and yield the callback that it reports to.

    A terminal shows one bar per stage. Elsewhere a line is printed when a stage ends, and every half minute before that.
    """
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    live = errors.is_terminal and errors.file.isatty()  # Rich also takes a file for a terminal, if FORCE_COLOR says so
    tasks = {}
    last_line = time.monotonic()
    with Bars(*columns, console=errors, disable=not live) as bars:

        def report(stage: str, done: int, total: int) -> None:
            nonlocal last_line
            if stage not in tasks:
                tasks[stage] = bars.add_task(printable(stage), total=total)
            bars.update(tasks[stage], completed=done, total=total)
            if live or (done < total and time.monotonic() < last_line + SECONDS_BETWEEN_LINES):
                return
            print_note(f"{stage}: {total} done" if done == total else f"{stage}: {done} of {total}")
            last_line = time.monotonic()

        yield report


def _print_result(content: RenderableType, soft_wrap: bool = True) -> None:
    try:
        console.print(content, soft_wrap=soft_wrap)
        console.file.flush()
    except BrokenPipeError:
        raise
    except OSError as e:
        raise OutputError(f"cannot write to standard output: {e.strerror or e}") from None
