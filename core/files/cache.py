"""The folder of this project's caches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stylert.core.errors import InputError


def cache_folder() -> Path:
    """The user's cache folder for stylert: `~/.cache/stylert` on Linux. `XDG_CACHE_HOME` moves it. It may not exist yet.

    Relative paths in `XDG_CACHE_HOME` and `HOME` are not used: they would name another folder in each current folder.

    Raises:
        InputError: The user's home folder is not known.
    """
    from platformdirs import user_cache_path

    return absolute_user_folder(user_cache_path, "caches", "XDG_CACHE_HOME")


def absolute_user_folder(locate: Callable[..., Path], content: str, variable: str) -> Path:
    """A folder of the user for stylert, by a function of platformdirs.

    Raises:
        InputError: The user's home folder is not known. The message names the content of the folder, and the variable to set.
    """
    try:
        folder = locate("stylert", appauthor=False)
    except RuntimeError:
        folder = Path()
    if not folder.is_absolute():
        raise InputError(f"the folder for {content} is not known: set {variable} to an absolute path")
    return folder
