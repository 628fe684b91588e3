"""Declares `stylert card`: the card of a model, filled from its files and measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stylert.cli.app import app
from stylert.cli.console import print_line
from stylert.core.errors import OutputError
from stylert.core.files.atomic import atomic_file, check_writable


@app.command()
def card(
    source: Annotated[Path, typer.Argument(help="A checkpoint, or the folder of a bundle.")],
    out: Annotated[Path, typer.Option(help="The card, a new file such as card.md.")],
    results: Annotated[Path | None, typer.Option(help="results.json of `stylert bench` or `stylert demo`.")] = None,
    metrics: Annotated[Path | None, typer.Option(help="The file that `stylert metrics --json` wrote.")] = None,
) -> None:
    """Write the card of a model in the form of Hugging Face. It marks the places for you to fill: data, use, limits."""
    from stylert.benchmarks.report.model_card import BLANK, model_card, model_facts

    if out.exists():
        raise OutputError(f"{out} exists, and may hold what people have written: remove it, or name another file")
    check_writable(out)
    text = model_card(model_facts(source), results, metrics)
    with atomic_file(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print_line(f"wrote {out}: {text.count(BLANK)} places are marked {BLANK}")
