"""A folder is replaced only as long as it holds nothing but what the command wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from stylert.core.files.marks import marked_files, write_mark

MARK = "mark.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "a.js").write_text("a")
    (tmp_path / "b.html").write_text("b")
    write_mark(tmp_path, MARK)
    return tmp_path


def test_what_was_written_is_own(folder: Path) -> None:
    assert marked_files(folder, MARK) == {MARK, "page/a.js", "b.html"}


@pytest.mark.parametrize("content", ["c", "longer"])
def test_a_file_that_somebody_has_changed_is_not_own(folder: Path, content: str) -> None:
    (folder / "b.html").write_text(content)
    (folder / "new").write_text("")
    assert marked_files(folder, MARK) == {MARK, "page/a.js"}


def test_a_link_is_not_own(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other") / "b.html"
    (folder / "b.html").rename(other)
    (folder / "b.html").symlink_to(other)
    assert "b.html" not in marked_files(folder, MARK)


def test_a_list_of_others_names_no_file_of_the_user(folder: Path) -> None:
    (folder / "thesis.txt").write_text("years of work")
    (folder / MARK).write_text(json.dumps({"files": {"thesis.txt": [13, "0" * 64], "../x": [1, "0" * 64], "a\0": [0, ""]}}))
    assert marked_files(folder, MARK) == {MARK}
    (folder / MARK).write_text(json.dumps({"files": ["thesis.txt"]}))
    assert marked_files(folder, MARK) == set()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def holes(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)


@pytest.mark.parametrize("make", [pipe, device, holes])
def test_a_list_or_file_without_end_is_not_read(folder: Path, make: Callable[[Path], None]) -> None:
    (folder / "b.html").unlink()
    make(folder / "b.html")
    assert "b.html" not in marked_files(folder, MARK)
    (folder / MARK).unlink()
    make(folder / MARK)
    assert marked_files(folder, MARK) == set()
