"""A file or folder appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import resource
from pathlib import Path

import pytest

from stylert.core.errors import OutputError
from stylert.core.files.atomic import append_line, atomic_directory, atomic_file
from tests.core.files.folders import names, write_folder
from tests.faults import rights_of_a_user


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["f"]


def test_a_failed_folder_leaves_the_old_one_and_no_other(way: str, tmp_path: Path) -> None:
    path = tmp_path / "d"
    for content in ("first", "second"):
        write_folder(path, content)
    with pytest.raises(RuntimeError), atomic_directory(path, None) as temporary:
        (temporary / "f").write_text("half")
        raise RuntimeError
    assert (path / "f").read_text() == "second"
    assert names(tmp_path) == ["d"]


def test_replacing_a_folder_removes_its_own_files_that_the_new_one_lacks(way: str, tmp_path: Path) -> None:
    path = tmp_path / "d"
    path.mkdir()
    (path / "stale").write_text("x")
    with atomic_directory(path, lambda folder: ["stale"]) as temporary:
        (temporary / "new").write_text("y")
    assert names(path) == ["new"]
    assert names(tmp_path) == ["d"]


def test_a_folder_with_files_of_others_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "d"
    (path / "pictures").mkdir(parents=True)
    (path / "own").write_text("x")
    (path / "pictures" / "cat.png").write_text("x")
    (path / "link").symlink_to(tmp_path)
    with (
        pytest.raises(OutputError, match=r"it also holds link, pictures/cat\.png; move"),
        atomic_directory(path, lambda _: ["own"]),
    ):
        pytest.fail("the work has begun")
    (path / "pictures" / "cat.png").unlink()
    (path / "link").unlink()
    with pytest.raises(OutputError, match=r"also holds NOTES"), atomic_directory(path, lambda _: ["own"]) as temporary:
        (temporary / "new").write_text("y")
        (path / "NOTES").write_text("came during the work")
    assert names(path) == ["NOTES", "own", "pictures"]
    assert names(tmp_path) == ["d"]


def test_files_and_folders_get_the_permissions_that_the_umask_gives(tmp_path: Path) -> None:
    for mask in (0o022, 0o077, 0o002):
        before = os.umask(mask)
        try:
            with atomic_file(tmp_path / f"a{mask}") as temporary:
                temporary.write_text("")
            write_folder(tmp_path / f"c{mask}", "")
            (tmp_path / f"b{mask}").write_text("")
            (tmp_path / f"d{mask}").mkdir()
        finally:
            os.umask(before)
        assert (tmp_path / f"a{mask}").stat().st_mode == (tmp_path / f"b{mask}").stat().st_mode
        assert (tmp_path / f"c{mask}").stat().st_mode == (tmp_path / f"d{mask}").stat().st_mode


def test_the_umask_of_the_process_is_never_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread that made a file at that moment would make it writable for all."""
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask is changed"))
    with atomic_file(tmp_path / "f") as temporary:
        temporary.write_text("")
    write_folder(tmp_path / "d", "")


def test_an_error_within_the_block_names_no_partial(tmp_path: Path) -> None:
    path = tmp_path / "d"
    with (
        pytest.raises(OutputError, match=rf"^cannot write {re.escape(str(path))}/engine: full$"),
        atomic_directory(path, None) as d,
    ):
        raise OutputError(f"cannot write {d / 'engine'}: full")
    for by_library in (False, True):
        refused = pytest.raises(OutputError, match=rf"^cannot write {re.escape(str(path))}: full$")
        with refused, atomic_file(path, by_library=by_library) as file:
            raise OutputError(f"cannot write {file}: full")


@pytest.mark.parametrize("name", ["list", "network"])
def test_a_file_that_cannot_be_read_is_the_reason_why_a_folder_is_not_replaced(name: str, tmp_path: Path) -> None:
    def own_files(folder: Path) -> set[str]:
        own = set()
        with contextlib.suppress(PermissionError):
            for file in (folder / "list").read_text().split():
                (folder / file).read_text()
                own.add(file)
        return own

    folder = tmp_path / "d"
    with atomic_directory(folder, None) as temporary:
        (temporary / "list").write_text("list network")
        (temporary / "network").touch()
    (folder / name).chmod(0)
    refused = pytest.raises(OutputError, match=f"cannot replace .*/d: {name} in it cannot be read: Permission denied")
    with rights_of_a_user(), refused, atomic_directory(folder, own_files):
        pass
    (folder / name).chmod(0o600)
    with atomic_directory(folder, own_files):
        pass
    assert names(folder) == []


def test_a_full_disk_leaves_the_old_file_and_is_one_line(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: the write fails in the middle."""
    (tmp_path / "f").write_text("old")
    write_folder(tmp_path / "d", "old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*f: File too large"), atomic_file(tmp_path / "f") as temporary:
            temporary.write_bytes(bytes(2000))
        with (
            pytest.raises(OutputError, match=r"cannot write .*d: File too large"),
            atomic_directory(tmp_path / "d", None) as folder,
        ):
            (folder / "f").write_bytes(bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "f").read_text() == (tmp_path / "d" / "f").read_text() == "old"
    assert names(tmp_path) == ["d", "f"]


def test_a_line_behind_one_that_a_kill_cut_is_a_line_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "stats.jsonl"
    append_line(file, {"a": 1})
    append_line(file, {"a": 2})
    assert file.read_text() == '{"a": 1}\n{"a": 2}\n'
    file.write_text('{"a": 1}\n{"a": 2')
    append_line(file, {"a": 3})
    assert file.read_text().splitlines()[-1] == '{"a": 3}'
