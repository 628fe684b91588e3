"""The folder of the caches is absolute, whatever the environment says."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from stylert.core.errors import InputError
from stylert.core.files.cache import cache_folder

OWN_HOME = pwd.getpwuid(os.getuid()).pw_dir


@pytest.mark.parametrize(
    ("home", "cache", "folder"),
    [
        ("/home/a", None, "/home/a/.cache/stylert"),
        ("/home/a", "", "/home/a/.cache/stylert"),
        ("/home/a", "/var/cache", "/var/cache/stylert"),
        ("/home/a", "cache", "/home/a/.cache/stylert"),
        ("home", "/var/cache", "/var/cache/stylert"),
        ("home", None, f"{OWN_HOME}/.cache/stylert"),
        (None, "./cache", f"{OWN_HOME}/.cache/stylert"),
    ],
)
def test_relative_folders_in_the_environment_are_not_used(
    home: str | None, cache: str | None, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("HOME", home), ("XDG_CACHE_HOME", cache)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert cache_folder() == Path(folder)


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number that no user has."""

    def unknown(number: int) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(InputError, match="XDG_CACHE_HOME"):
        cache_folder()


def test_a_test_run_has_caches_of_its_own_which_its_processes_share() -> None:
    folder = cache_folder()
    assert not folder.is_relative_to(OWN_HOME)
    code = "from stylert.core.files.cache import cache_folder; print(cache_folder())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == f"{folder}\n"
