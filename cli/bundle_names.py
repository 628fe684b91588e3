"""The argument with which a command takes several bundles, each under a name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

NamedFolders = Annotated[list[str], typer.Argument(metavar="BUNDLE...", help="Folders of bundles, or NAME=FOLDER.")]


def named_folder(text: str) -> tuple[str, Path]:
    """Name and folder of a bundle. The name is that of the folder unless `text` gives one before `=`."""
    name, equals, folder = text.partition("=")
    if equals and "/" not in name:
        return name, Path(folder)
    try:
        real = os.path.realpath(text)  # Path.resolve raises RuntimeError on links in a circle
    except ValueError:  # a null character, which the reader of bundles refuses
        real = text
    return os.path.basename(real), Path(text)
