"""Places of files and folders: links, devices, descriptors, and names that cannot be written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stylert.core.errors import OutputError
from stylert.core.files import atomic
from stylert.core.files.atomic import atomic_directory, atomic_file, check_writable
from stylert.core.files.partials import PARTIAL_SUFFIX, new_partial_file, new_partial_folder
from tests.core.files.folders import names, write_folder


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write"), atomic_file(tmp_path / "file" / "below"):
        pass
    with pytest.raises(OutputError, match="in the way"), atomic_directory(tmp_path / "file", None):
        pass
    for path in (Path("/proc/nowhere/f"), tmp_path / ("a" * 300)):
        with pytest.raises(OutputError, match="cannot write"), atomic_file(path):
            pass
        with pytest.raises(OutputError, match="cannot write"), atomic_directory(path, None):
            pass
    with pytest.raises(OutputError, match=r"not PosixPath\('a.x00b'\)"), atomic_file(Path("a\0b")):
        pass


def test_what_cannot_be_written_is_found_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file" / "below", Path("/proc/nowhere/f"), Path("/dev/null")):
        with pytest.raises(OutputError, match=f"cannot write {path}: "):
            check_writable(path)
    check_writable(tmp_path / "file")
    check_writable(tmp_path / "new" / "f")
    check_writable(None)
    assert (tmp_path / "file").read_text() == "x"
    assert [p.name for p in tmp_path.rglob("*")] == ["file"]  # a command that is refused for another reason leaves no folder


def test_devices_and_pipes_are_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(OutputError, match="not a regular file"), atomic_file(tmp_path / name):
            pass
    assert (tmp_path / "pipe").is_fifo()


def test_links_are_followed_and_stay(way: str, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "f").write_text("old")
    (tmp_path / "f").symlink_to("real/f")
    (tmp_path / "new").symlink_to("real/new")
    (tmp_path / "d").symlink_to("real/d")
    write_folder(tmp_path / "real" / "d", "old")
    for name in ("f", "new"):
        with atomic_file(tmp_path / name) as temporary:
            temporary.write_text("new")
    write_folder(tmp_path / "d", "new")
    assert all((tmp_path / name).is_symlink() for name in ("f", "new", "d"))
    assert {(tmp_path / "real" / name).read_text() for name in ("f", "new", "d/f")} == {"new"}
    assert names(tmp_path / "real") == ["d", "f", "new"]


@pytest.mark.parametrize("target", ["victim", "absent"])
@pytest.mark.parametrize("link", ["link", "folder/link", "link/folder"])
def test_no_link_below_a_folder_of_others_is_followed(link: str, target: str, tmp_path: Path) -> None:
    victim, within = tmp_path / "victim", tmp_path / "within"
    victim.mkdir()
    (victim / f".f{PARTIAL_SUFFIX}").write_text("kept")
    (within / "folder").mkdir(parents=True)
    place = within / link
    (within / link.removesuffix("/folder")).symlink_to(tmp_path / target)
    for path in (place, place / "f"):
        with pytest.raises(OutputError, match=r"link is a link"), atomic_file(path, within):
            pass
        with pytest.raises(OutputError, match=r"link is a link"), atomic_directory(path, None, within):
            pass
    assert names(tmp_path) == ["victim", "within"]
    assert names(victim) == [f".f{PARTIAL_SUFFIX}"]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not name open descriptors")
@pytest.mark.parametrize("is_deleted", [False, True])
def test_the_name_of_an_open_descriptor_is_no_place_for_a_file(is_deleted: bool, tmp_path: Path) -> None:
    with open(tmp_path / "table.txt", "w") as table:
        if is_deleted:
            (tmp_path / "table.txt").unlink()
        (tmp_path / "link").symlink_to(f"/proc/self/fd/{table.fileno()}")
        before = names(tmp_path)
        for path in (f"/dev/fd/{table.fileno()}", f"/proc/{os.getpid()}/fd/{table.fileno()}", tmp_path / "link", "/dev/stdout"):
            for write in (lambda p: atomic_file(p), lambda p: atomic_directory(p, None)):
                with pytest.raises(OutputError, match=f"cannot write {path}: it is an open stream"), write(path):
                    pass
            with pytest.raises(OutputError, match="it is an open stream"):
                check_writable(path)
        assert names(tmp_path) == before


def test_the_folder_of_others_may_itself_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    with atomic_file(tmp_path / "link" / "a" / "f", tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "there" / "a" / "f").read_text() == "new"


def test_the_current_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d" / "below").mkdir(parents=True)
    for current, path in (("d", "."), ("d/below", "..")):
        monkeypatch.chdir(tmp_path / current)
        with pytest.raises(OutputError, match="current folder"), atomic_directory(path, None):
            pass


@pytest.mark.parametrize("new", [new_partial_file, new_partial_folder])
def test_a_file_system_that_makes_no_files_is_refused(
    new: Callable[[Path], tuple[Path, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as /proc: it says that a file does not exist, although its folder does."""
    attempts = []

    def refuse(path: str, *_: object) -> int:
        attempts.append(path)
        assert len(attempts) < 1000, "this comes to no end"
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    monkeypatch.setattr(os, "mkdir", refuse)
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(FileNotFoundError):
        new(tmp_path / "f")
    assert attempts


def test_a_folder_whose_name_is_always_taken_away_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []

    def refuse(*_: object) -> bool:
        attempts.append(1)
        assert len(attempts) < 1000, "this comes to no end"
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    write_folder(tmp_path / "d", "old")
    monkeypatch.setattr(atomic, "_exchange", refuse)
    with pytest.raises(OutputError, match="No such file"):
        write_folder(tmp_path / "d", "new")
    assert names(tmp_path) == ["d"]


def test_a_name_may_be_as_long_as_the_file_system_takes(tmp_path: Path) -> None:
    for name in ("n" * 251 + ".png", "ä" * 125 + ".json"):
        check_writable(tmp_path / name)
        with atomic_file(tmp_path / name) as temporary:
            temporary.write_text("x")
        with atomic_directory(tmp_path / "d" / name, None) as folder:
            (folder / "f").touch()
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(OutputError, match="too long"):
        check_writable(tmp_path / ("n" * 256))


def test_the_current_folder_may_be_gone(tmp_path: Path) -> None:
    code = f"""
import os
from stylert.core.files.atomic import atomic_directory
os.mkdir("gone"); os.chdir("gone"); os.rmdir("../gone")
for _ in range(2):
    with atomic_directory({str(tmp_path / "d")!r}, None) as folder:
        (folder / "f").touch()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
