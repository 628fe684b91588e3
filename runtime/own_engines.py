"""Remembers the engines that this user has built, so that loading need not parse them in search of other files.

A library wrote such an engine, and its sha256 shows that nobody changed it. The record is a marker in the user's cache
folder. `engine.json` is no such record: a stranger who makes a bundle can write any sha256 into it.
"""

from __future__ import annotations

import os
from pathlib import Path

from stylert.core.errors import InputError, OutputError
from stylert.core.files.atomic import atomic_file
from stylert.core.files.cache import cache_folder


def remember_own_engine(sha256: str) -> None:
    """Record that this user has built an engine whose main file has this sha256. A cache without room remembers nothing."""
    try:
        with atomic_file(_marker(sha256)) as temporary:
            temporary.touch()
    except (InputError, OutputError):
        pass


def is_own_engine(sha256: str) -> bool:
    """Whether this user has built an engine whose main file has this sha256. A cache that cannot be read remembers nothing."""
    try:
        return os.path.isfile(_marker(sha256))  # False as well where this user may not look, unlike `Path.is_file`
    except InputError:
        return False


def _marker(sha256: str) -> Path:
    return cache_folder() / "engines" / sha256
