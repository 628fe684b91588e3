"""Folders that the tests of files write and look into."""

from __future__ import annotations

import os
from pathlib import Path

from stylert.core.files.atomic import atomic_directory


def write_folder(path: Path, content: str) -> None:
    """Write two files of this content, whole, as `atomic_directory` does."""
    with atomic_directory(path, None) as temporary:
        (temporary / "f").write_text(content)
        (temporary / "g").write_text(content)


def names(folder: Path) -> list[str]:
    """The names in a folder, hidden ones too."""
    return sorted(os.listdir(folder))
