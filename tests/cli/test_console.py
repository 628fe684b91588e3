"""Lines and tables of hostile text, and progress without a terminal."""

from __future__ import annotations

import io
import os
from types import SimpleNamespace

import pytest
from rich.console import Console

from stylert.cli import console


def test_progress_without_a_terminal_is_a_line_from_time_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    out = io.StringIO()
    monkeypatch.setattr(console, "errors", Console(file=out, width=80))
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: now))
    with console.progress() as report:
        for done in range(21):
            report("measure", done, 20)
            now += 6.0
        report("layers", 0, 1)
        report("layers", 1, 1)
    lines = out.getvalue().splitlines()
    assert lines == ["measure: 5 of 20", "measure: 10 of 20", "measure: 15 of 20", "measure: 20 done", "layers: 1 done"]


def test_a_file_that_only_the_environment_calls_a_terminal_gets_no_cursor_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """FORCE_COLOR asks for colors in files."""
    out = io.StringIO()
    monkeypatch.setattr(console, "errors", Console(file=out, force_terminal=True, color_system=None))
    with console.progress() as report:
        report("export", 1, 2)
        report("export", 2, 2)
    assert out.getvalue() == "export: 2 done\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m\x07", r"\x1b[31mred\x1b[0m\x07"),
        ("a\rb\nc\x85d\u2028e", r"a\rb\nc\x85d\u2028e"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\x9b2J", r"\x9b2J"),
        ("\udcff", r"\udcff"),
        ("[bold]b[/bold] [/x] :smile: Käse 日本 \N{GRINNING FACE}", "[bold]b[/bold] [/x] :smile: Käse 日本 \N{GRINNING FACE}"),
    ],
)
def test_text_of_files_cannot_control_the_terminal_and_is_no_markup(
    text: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.StringIO()
    for name in ("console", "errors"):
        monkeypatch.setattr(console, name, Console(file=out, width=200, force_terminal=True, color_system=None))
    console.print_line(text)
    console.print_note(text)
    console.print_table(text, ["<column", "n"], [(text, 1)])
    lines = [line.strip() for line in out.getvalue().splitlines()]
    assert lines[:2] == [shown, shown]
    assert shown in lines[2]
    assert lines[4].split(" ")[0] == shown.split(" ")[0]
    assert console.printable(text) == shown


def test_a_note_on_a_full_disk_does_not_end_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(console, "errors", Console(file=full))
        console.print_note("trained 10 kimg")
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())  # for the end of the block, which writes the rest
