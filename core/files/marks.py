"""Folders that a command writes whole, and replaces when it runs again: a file in the folder lists what the command wrote.

A file counts as the command's only as long as nobody has changed it.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stylert.core.errors import InputError
from stylert.core.files.atomic import atomic_directory
from stylert.core.files.digests import sha256_of
from stylert.core.files.inputs import read_file
from stylert.core.files.json_documents import MAX_BYTES, read_document
from stylert.core.files.outputs import check_not_around


@contextmanager
def marked_directory(path: str | Path, mark: str, inputs: Iterable[Path]) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` with its list, as in `atomic_directory`.

    Args:
        path: The folder. An existing one is replaced only if it holds nothing but what was written and listed before.
        mark: Name of the list in it.
        inputs: Files or folders that are read. None may lie in a folder that is replaced.

    Raises:
        OutputError: As `atomic_directory`, or an input lies in the folder.
    """
    check_not_around(Path(path), inputs)
    with atomic_directory(path, lambda folder: marked_files(folder, mark)) as folder:
        yield folder
        write_mark(folder, mark)


def write_mark(folder: Path, mark: str) -> None:
    """List all files below a folder, each with its size and hash, in its file `mark`."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    content = {file.relative_to(folder).as_posix(): [file.stat().st_size, sha256_of(file)] for file in files}
    (folder / mark).write_text(json.dumps({"files": content}, indent=1) + "\n", encoding="utf-8")


def marked_files(folder: Path, mark: str) -> set[str]:
    """The names that `write_mark` listed, of the files that are still the same, and `mark`. Empty for a folder without a list."""
    try:
        text = read_file(folder / mark, InputError, MAX_BYTES)
        listed = read_document(text, dict[str, dict[str, tuple[int, str]]], mark, InputError)["files"]
    except (InputError, KeyError):
        return set()
    return {mark, *(name for name, (size, sha256) in listed.items() if is_unchanged(folder / name, size, sha256))}


def is_unchanged(file: Path, size: int, sha256: str) -> bool:
    """Whether a regular file, and no link, has this size and hash. Its content is read only if it has the size."""
    with suppress(OSError, ValueError, InputError):
        status = os.lstat(file)
        return stat.S_ISREG(status.st_mode) and status.st_size == size and sha256_of(file) == sha256
    return False
