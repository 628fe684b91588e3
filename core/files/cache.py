"""The folder of this project's caches."""

from __future__ import annotations

from pathlib import Path

from stylert.core.errors import InputError


def cache_folder() -> Path:
    """The user's cache folder for stylert: `~/.cache/stylert` on Linux. `XDG_CACHE_HOME` moves it. It may not exist yet.

    Relative paths in `XDG_CACHE_HOME` and `HOME` are not used: they would name another folder in each current folder.

    Raises:
        InputError: The user's home folder is not known.
    """
    from platformdirs import user_cache_path

    try:
        folder = user_cache_path("stylert", appauthor=False)
    except RuntimeError:
        folder = Path()
    if not folder.is_absolute():
        raise InputError("the folder for caches is not known: set XDG_CACHE_HOME to an absolute path")
    return folder
