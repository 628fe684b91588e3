"""Checks of the file that a command is asked to write, before its work begins.

A command replaces no input of its own, and no file of another kind than the one that it writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from stylert.core.errors import OutputError
from stylert.core.files.atomic import check_writable

#: Whether the first bytes of a file may be of this kind.
KINDS: dict[str, Callable[[bytes], bool]] = {
    "JSON": lambda head: head.lstrip()[:1] in (b"{", b"["),
    "HTML": lambda head: head.lstrip()[:1] == b"<",
    "zip": lambda head: head[:2] == b"PK",
    "safetensors": lambda head: head[8:9] == b"{",
}
HEAD_BYTES = 512

#: JSON documents that belong to a bundle, an engine or a dataset.
DOCUMENTS = ("bundle.json", "engine.json", "dataset.json")


def check_output(path: Path | None, kind: str, inputs: Iterable[Path | None] = ()) -> None:
    """Check that a result can be written to the file `path`, and that nothing else is lost. None needs no check.

    Args:
        path: The file. An existing one is replaced only if it is empty or of this kind.
        kind: A name from `KINDS`.
        inputs: Files that the command reads, or folders. The file may not be one of them, or a name of one.

    Raises:
        OutputError: The file cannot be written, is an input, or is of another kind.
    """
    check_writable(path)
    if path is None:
        return
    check_not_input(path, inputs)
    if not path.exists():
        return
    if path.name in DOCUMENTS:
        raise OutputError(f"cannot write {path}: the {path.name} there belongs to other files; choose another name")
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as e:
        raise OutputError(f"cannot write {path}: the file there cannot be read: {e.strerror or e}") from None
    if head and not KINDS[kind](head):
        raise OutputError(f"cannot write {path}: the file there is not {kind}; choose another name")


def check_not_input(path: Path, inputs: Iterable[Path | None]) -> None:
    """Raise OutputError if `path` names one of the inputs, also by a link."""
    for given in inputs:
        if given is not None and is_same_file(path, given):
            raise OutputError(f"cannot write {path}: it is an input, {given}")


def is_same_file(a: Path, b: Path) -> bool:
    """Whether two paths name one file or folder. One that does not exist yet is compared by its path."""
    try:
        return os.path.samefile(a, b)
    except OSError:
        return os.path.realpath(a) == os.path.realpath(b)


def is_within(path: Path, folder: Path) -> bool:
    """Whether `path` is `folder` or lies below it, after following links."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
