"""Folders for files that are needed for a moment."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stylert.core.errors import OutputError
from stylert.core.files.partials import new_partial_folder, remove_stale_partials, shown_as


@contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """Yield a new folder in the system's folder for temporary files, for this user alone. It is removed at the end.

    It has our name and is locked. So a process that is killed leaves it to the next one, which removes it.

    Args:
        purpose: A word for the name of the folder, such as `tune`.

    Raises:
        OutputError: The folder cannot be made. Or as the block, with the folder's name without the hidden part.
    """
    try:
        parent = Path(tempfile.gettempdir())
        remove_stale_partials(parent)
        path, descriptor = new_partial_folder(parent / f"stylert-{purpose}", mode=0o700)
    except OSError as e:
        raise OutputError(f"cannot make a temporary folder: {e.strerror or e}") from None
    try:
        with shown_as(parent / f"stylert-{purpose}", path):
            yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)
