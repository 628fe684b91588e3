"""A file or folder appears whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from stylert.core.atomic import atomic_directory, atomic_file, check_writable
from stylert.core.errors import OutputError


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_failed_folder_leaves_the_old_one_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "d"
    for content in ("first", "second"):
        with atomic_directory(path) as temporary:
            (temporary / "f").write_text(content)
    with pytest.raises(RuntimeError), atomic_directory(path) as temporary:
        (temporary / "f").write_text("half")
        raise RuntimeError
    assert (path / "f").read_text() == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_replacing_a_folder_removes_what_only_the_old_one_had(tmp_path: Path) -> None:
    path = tmp_path / "d"
    path.mkdir()
    (path / "stale").write_text("x")
    with atomic_directory(path) as temporary:
        (temporary / "new").write_text("y")
    assert [p.name for p in path.iterdir()] == ["new"]


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write"), atomic_file(tmp_path / "file" / "below"):
        pass
    with pytest.raises(OutputError, match="in the way"), atomic_directory(tmp_path / "file"):
        pass
    with pytest.raises(OutputError, match="cannot write"), atomic_file(Path("/proc/nowhere/f")):
        pass


def test_what_cannot_be_written_is_found_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file" / "below", Path("/proc/nowhere/f")):
        with pytest.raises(OutputError, match=f"cannot write {path}: "):
            check_writable(path)
    check_writable(tmp_path / "file")
    check_writable(tmp_path / "new" / "f")
    check_writable(None)
    assert (tmp_path / "file").read_text() == "x"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "new"]


def test_files_get_the_permissions_that_the_umask_gives(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a") as temporary:
        temporary.write_text("")
    (tmp_path / "b").write_text("")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode
