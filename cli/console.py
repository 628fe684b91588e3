"""What the command line shows: progress, tables, and one line for every mistake."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

#: A pipe or a file has no width to keep to.
console = Console() if Console().is_terminal else Console(width=160)
errors = Console(stderr=True)

SECONDS_BETWEEN_LINES = 30

#: `(stage, done, total)`, as the stages call it
Report = Callable[[str, int, int], None]


@contextmanager
def progress() -> Iterator[Report]:
    """A bar per stage, on stderr; where stderr is no terminal, a line when a stage ends and twice a minute until then."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    tasks = {}
    said = time.monotonic()
    with Progress(*columns, console=errors, disable=not errors.is_terminal) as bars:

        def report(stage: str, done: int, total: int) -> None:
            nonlocal said
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)
            if errors.is_terminal or (done < total and time.monotonic() < said + SECONDS_BETWEEN_LINES):
                return
            errors.print(f"{stage}: {total} done" if done == total else f"{stage}: {done} of {total}", highlight=False)
            said = time.monotonic()

        yield report


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; columns whose name starts with `<` are text, the others numbers."""
    t = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        t.add_column(column.lstrip("<"), justify="left" if column.startswith("<") else "right", no_wrap=True)
    for row in rows:
        t.add_row(*map(str, row))
    console.print(t)
