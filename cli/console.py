"""Output of the command line: lines, tables and progress bars."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from stylert.core.progress import Progress

#: Results go to stdout. A pipe or a file has no width, so its lines are not cut at 80 columns.
console = Console() if Console().is_terminal else Console(width=160)
#: Progress, notes and errors go to stderr.
errors = Console(stderr=True)

SECONDS_BETWEEN_LINES = 30


def print_line(text: str, style: str | None = None) -> None:
    """Print one line of a result to stdout, unchanged: without markup, colours or line breaks of its own."""
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def print_note(text: str, style: str | None = None) -> None:
    """Print one line to stderr, where it does not mix with results."""
    errors.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table.

    Args:
        title: Line above the table.
        columns: Names. A name that starts with `<` is a column of text, aligned to the left; others hold numbers.
        rows: One value per column.
    """
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.lstrip("<"), justify="left" if column.startswith("<") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(str, row))
    console.print(table)


@contextmanager
def progress() -> Iterator[Progress]:
    """Show the progress of a long call on stderr, and yield the callback that it reports to.

    A terminal shows one bar per stage. Elsewhere a line is printed when a stage ends, and every half minute before that.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    tasks = {}
    last_line = time.monotonic()
    with Bars(*columns, console=errors, disable=not errors.is_terminal) as bars:

        def report(stage: str, done: int, total: int) -> None:
            nonlocal last_line
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)
            if errors.is_terminal or (done < total and time.monotonic() < last_line + SECONDS_BETWEEN_LINES):
                return
            print_note(f"{stage}: {total} done" if done == total else f"{stage}: {done} of {total}")
            last_line = time.monotonic()

        yield report
