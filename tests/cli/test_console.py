"""Progress without a terminal: a line from time to time, and one at the end of each stage."""

from __future__ import annotations

import io
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
