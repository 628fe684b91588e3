"""Folders that a command writes whole, and replaces when it runs again: a file in the folder lists what the command wrote."""

from __future__ import annotations

import json
from pathlib import Path

from stylert.core.errors import InputError
from stylert.core.files.json_documents import read_document


def write_mark(folder: Path, mark: str) -> None:
    """List all files below a folder, and the list itself, in its file `mark`."""
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    (folder / mark).write_text(json.dumps({"files": [*files, mark]}))


def marked_files(folder: Path, mark: str) -> set[str]:
    """The names that `write_mark` listed; empty for a folder without a list."""
    try:
        return set(read_document((folder / mark).read_bytes(), dict[str, list[str]], mark, InputError)["files"])
    except (OSError, InputError, KeyError):
        return set()
