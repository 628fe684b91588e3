"""The folder of the user's settings for this project."""

from __future__ import annotations

from pathlib import Path

from stylert.core.files.cache import absolute_user_folder


def configuration_folder() -> Path:
    """The user's folder of settings for stylert: `~/.config/stylert` on Linux. `XDG_CONFIG_HOME` moves it. It may not exist yet.

    Relative paths in `XDG_CONFIG_HOME` and `HOME` are not used, as in `cache_folder`.

    Raises:
        InputError: The user's home folder is not known.
    """
    from platformdirs import user_config_path

    return absolute_user_folder(user_config_path, "settings", "XDG_CONFIG_HOME")
