"""The folder of this project's caches."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from stylert.core.errors import InputError


def cache_folder() -> Path:
    """The user's cache folder for stylert: `~/.cache/stylert` on Linux. `XDG_CACHE_HOME` moves it. It may not exist yet.

    A relative `XDG_CACHE_HOME` or `HOME` would name another folder in each current folder, so neither is used.

    Raises:
        InputError: The user's home folder is not known.
    """
    from platformdirs import user_cache_path

    folder = user_cache_path("stylert", appauthor=False)
    if folder.is_absolute():
        return folder
    home = os.environ.get("HOME", "")
    if not os.path.isabs(home):
        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            home = ""
    if not os.path.isabs(home):
        raise InputError("the folder for caches is not known: set XDG_CACHE_HOME to an absolute path")
    return Path(home, ".cache", "stylert")
