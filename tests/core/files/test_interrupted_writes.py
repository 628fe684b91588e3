"""Between two moments of a write: kills, other processes and other threads."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from stylert.core.files.atomic import atomic_file
from stylert.core.files.partials import new_partial_file, new_partial_folder
from tests.core.files.folders import names, write_folder
from tests.faults import forget_swept_folders, recorded_states, run_killed

WRITE_FILE = """
from stylert.core.files.atomic import atomic_file
with atomic_file("f") as temporary:
    temporary.write_text("new")
"""
WRITE_FOLDER = """
from stylert.core.files.atomic import atomic_directory
with atomic_directory("d", None) as temporary:
    (temporary / "f").write_text("new")
    (temporary / "g").write_text("new")
"""


@pytest.mark.parametrize("code", [WRITE_FILE, WRITE_FOLDER], ids=["file", "folder"])
def test_a_killed_process_leaves_the_old_or_the_new_content_and_the_next_one_removes_the_rest(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"import os; os.chdir({str(tmp_path)!r})\n{code}"
    seen = set()
    for number in range(100):
        (tmp_path / "f").write_text("old")
        write_folder(tmp_path / "d", "old")
        status = run_killed(code, number)
        assert status in (0, -signal.SIGKILL)
        seen.add(((tmp_path / "f").read_text(), (tmp_path / "d" / "f").read_text(), (tmp_path / "d" / "g").read_text()))
        if status == 0:
            break
        forget_swept_folders(monkeypatch)
        with atomic_file(tmp_path / "other") as temporary:
            temporary.write_text("")
        assert names(tmp_path) == ["d", "f", "other"]
    new = ("new", "old", "old") if code.endswith(WRITE_FILE) else ("old", "new", "new")
    assert seen == {("old", "old", "old"), new}
    assert number >= 3, "the calls are not seen"


@pytest.mark.parametrize("exists", [False, True])
def test_at_every_moment_a_folder_is_the_old_one_or_the_new_one(
    way: str, exists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    if exists:
        write_folder(place / "d", "old")
    with recorded_states(place, tmp_path / "states") as states:
        write_folder(place / "d", "new")
    seen = set()
    for state in states:
        contents = {name: (state / "d" / name).read_text() if (state / "d").exists() else None for name in ("f", "g")}
        if way == "exchange":
            assert len(set(contents.values())) == 1
            seen.add(contents["f"])
        forget_swept_folders(monkeypatch)
        with atomic_file(state / "other") as temporary:  # another write: it restores or removes, whatever is left
            temporary.write_text("")
        rest = names(state)
        assert rest == ["d", "other"] or (not exists and rest == ["other"])
        if exists or "d" in rest:
            assert len({(state / "d" / name).read_text() for name in ("f", "g")}) == 1
        write_folder(state / "d", "again")
        assert names(state / "d") == ["f", "g"]
    if way == "exchange":
        assert seen == {"old" if exists else None, "new"}


def test_what_another_process_is_writing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    makers: list[Callable[[Path], tuple[Path, int]]] = [new_partial_file, new_partial_folder]
    for make in makers:
        path, descriptor = make(tmp_path / "x")
        for held in (True, False):
            forget_swept_folders(monkeypatch)
            with atomic_file(tmp_path / "f") as temporary:
                temporary.write_text("")
            assert path.exists() is held
            if held:
                os.close(descriptor)


def test_hidden_files_of_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (".profile.1a2b3c4d.partial", "x.stylert.partial", ".f"):
        (tmp_path / name).write_text("")
    before = names(tmp_path)
    forget_swept_folders(monkeypatch)
    with atomic_file(tmp_path / "f") as temporary:
        temporary.write_text("")
    assert names(tmp_path) == sorted([*before, "f"])


def test_threads_that_replace_one_folder_at_once_all_succeed(way: str, tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for _ in range(10):
                write_folder(tmp_path / "d", str(number))
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert (tmp_path / "d" / "f").read_text() == (tmp_path / "d" / "g").read_text()
    assert names(tmp_path) == ["d"]
