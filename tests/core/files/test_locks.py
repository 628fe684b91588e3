"""Locks of folders: other processes and threads stay out, a forked child has none of its parent's, and a wait says what it waits for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stylert.core.errors import OutputError
from stylert.core.files import locks
from stylert.core.files.locks import changing_folder, locked_folder
from tests.core.files.folders import names, write_folder
from tests.faults import started

ENTER = "import sys; from stylert.core.files.locks import {0}\nwith {0}(sys.argv[1]): print('in', flush=True); sys.stdin.read()"


def in_child(action: Callable[[], object]) -> str:
    """The result of an action in a forked child, or the error that it raises there, as text."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, str(action()).encode())
        except Exception as e:
            os.write(writing, f"{type(e).__name__}: {e}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return text


def enter(path: Path) -> str:
    with locked_folder(path):
        return "entered"


@pytest.mark.parametrize("hold", [locked_folder, changing_folder])
def test_a_forked_child_does_not_have_the_locks_of_its_parent(
    hold: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change() -> str:
        with changing_folder(tmp_path):
            return "entered"

    monkeypatch.setattr(locks, "WAIT_SECONDS", 0.0)
    with hold(tmp_path):  # type: ignore[attr-defined]
        for action in (lambda: enter(tmp_path), change):
            assert action() == "entered"
            assert "another process is writing there" in in_child(action)
        assert enter(tmp_path) == "entered", "the parent still has it"
    assert in_child(lambda: enter(tmp_path)) == "entered"


def test_a_lock_ends_with_its_block_although_a_forked_child_lives_on(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with locked_folder(tmp_path):
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.read(reading, 1)  # until the parent has closed its end
            os._exit(0)
    try:
        assert subprocess.run([sys.executable, "-c", ENTER.format("locked_folder"), tmp_path], input=b"").returncode == 0
    finally:
        os.close(writing)
        os.waitpid(child, 0)
        os.close(reading)


def test_a_child_that_leaves_the_block_of_its_parent_changes_nothing(tmp_path: Path) -> None:
    (reading, writing), child = os.pipe(), None
    try:
        with locked_folder(tmp_path / "new"):
            child = os.fork()
            if child:
                assert os.waitpid(child, 0)[1] == 0
                assert (tmp_path / "new").is_dir()
    finally:
        if child == 0:
            os._exit(0 if sys.exception() is None else 1)
    os.close(reading)
    os.close(writing)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("hold", ["locked_folder", "changing_folder"])
def test_a_wait_says_once_and_in_one_line_what_it_waits_for(
    hold: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(locks, "TOLD_SECONDS", 0.0)
    monkeypatch.setattr(locks, "WAIT_SECONDS", 0.3)
    with changing_folder(tmp_path):
        pass
    assert capsys.readouterr().err == ""
    command = [sys.executable, "-c", ENTER.format(hold), tmp_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(OutputError), changing_folder(tmp_path):
            pass
        line = capsys.readouterr().err
        listed = re.search(rf"FLOCK .* {other.pid} ", Path("/proc/locks").read_text(encoding="utf-8"))
        other.communicate(b"")
    who = f"process {other.pid}" if listed else "another process"
    assert line == f"waiting up to 0.3 s for {who}, which is writing into {tmp_path}\n"


def test_a_second_process_is_kept_out_of_a_locked_folder(tmp_path: Path) -> None:
    enter = (
        "import sys; from stylert.core.files.locks import changing_folder, locked_folder\nwith locked_folder(sys.argv[1]): pass"
    )
    for held in (True, False):
        command = [sys.executable, "-c", enter, str(tmp_path / "run")]
        if held:
            with locked_folder(tmp_path / "run"):
                done = subprocess.run(command, capture_output=True, text=True)
                assert "another process is writing there" in done.stderr
        else:
            assert subprocess.run(command).returncode == 0
    assert names(tmp_path) == [], "an empty folder that was made for it goes"
    (tmp_path / "mine").mkdir()
    with locked_folder(tmp_path / "mine"):
        pass
    assert names(tmp_path) == ["mine"]


def test_a_block_of_the_same_thread_may_lock_its_folder_again_and_another_thread_may_not(tmp_path: Path) -> None:
    def enter() -> None:
        with locked_folder(tmp_path / "run"):
            pass

    with ThreadPoolExecutor(1) as other:
        with locked_folder(tmp_path / "run"):
            enter()
            (tmp_path / "link").symlink_to("run")
            with locked_folder(tmp_path / "link"), pytest.raises(OutputError, match="another process is writing there"):
                other.submit(enter).result()
            with pytest.raises(OutputError, match="another process is writing there"):
                other.submit(enter).result()
        other.submit(enter).result()


def test_a_folder_in_which_files_change_is_replaced_after_that(way: str, tmp_path: Path) -> None:
    write_folder(tmp_path / "d", "old")
    (tmp_path / "link").symlink_to("d")
    with changing_folder(tmp_path / "link"):
        writing = started(lambda: write_folder(tmp_path / "d", "new"))
        assert (tmp_path / "d" / "f").read_text() == "old"
        with changing_folder(tmp_path / "d"):
            (tmp_path / "d" / "f").write_text("changed")
    writing.result()
    assert {name: (tmp_path / "d" / name).read_text() for name in names(tmp_path / "d")} == {"f": "new", "g": "new"}
    assert names(tmp_path) == ["d", "link"]


def test_who_has_waited_for_a_folder_has_the_one_that_is_there_then(way: str, tmp_path: Path) -> None:
    def change() -> None:
        with changing_folder(tmp_path / "d"):
            (tmp_path / "d" / "f").write_text((tmp_path / "d" / "f").read_text() + " and changed")

    write_folder(tmp_path / "d", "old")
    with changing_folder(tmp_path / "d"):
        changing = started(change)
        assert not changing.done()
        write_folder(tmp_path / "d", "new")
    changing.result()
    assert (tmp_path / "d" / "f").read_text() == "new and changed"


def test_a_folder_with_long_work_in_it_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "WAIT_SECONDS", 0.0)
    write_folder(tmp_path / "d", "old")
    with locked_folder(tmp_path / "d"), pytest.raises(OutputError, match="another process is writing there"):
        started(lambda: write_folder(tmp_path / "d", "new")).result()
    assert (tmp_path / "d" / "f").read_text() == "old"
    assert names(tmp_path) == ["d"]
