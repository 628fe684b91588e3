"""The folder of this project's caches."""

from __future__ import annotations

from pathlib import Path


def cache_folder() -> Path:
    """The user's cache folder for stylert: `~/.cache/stylert` on Linux. `XDG_CACHE_HOME` moves it. It may not exist yet."""
    from platformdirs import user_cache_path

    return user_cache_path("stylert", appauthor=False)
