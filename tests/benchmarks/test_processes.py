"""A measurement has a process of its own, whose death is one line and whose errors are raised here."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stylert.benchmarks.processes import new_process
from stylert.core.errors import BackendError

_kept: list[object] = []


def keep(value: object) -> None:
    _kept.append(value)


def kept() -> tuple[int, list[object]]:
    return os.getpid(), _kept


def refuse(text: str) -> None:
    raise ValueError(text)


def wait_for_ever(folder: Path) -> None:
    try:
        (folder / "began").touch()
        time.sleep(600)
    finally:
        (folder / "ended").touch()


def test_calls_share_one_process_and_it_ends_with_the_block() -> None:
    with new_process("x", keep, "first") as call:
        call(keep, ["a" * 1_000_000])
        process, values = call(kept)
        assert call(kept) == (process, ["first", ["a" * 1_000_000]])
        assert process != os.getpid()
    assert values[0] == "first"
    assert _kept == []
    assert multiprocessing.active_children() == []
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_an_error_is_raised_as_it_is_and_the_process_goes_on() -> None:
    with new_process("x") as call:
        with pytest.raises(ValueError, match="no number") as e:
            call(refuse, "no number")
        assert "in refuse" in "".join(e.value.__notes__)
        assert call(abs, -3) == 3


@pytest.mark.parametrize(
    ("function", "arguments", "cause"),
    [(os._exit, (3,), "exit status 3"), (os.abort, (), "SIGABRT"), (os._exit, (0,), "exit status 0")],
)
def test_the_death_of_the_process_is_one_line(function: object, arguments: tuple[int, ...], cause: str) -> None:
    with pytest.raises(BackendError, match=f"the process that measures x died .{cause}"), new_process("x") as call:
        call(function, *arguments)
    assert multiprocessing.active_children() == []


def test_a_process_that_cannot_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("multiprocessing.popen_spawn_posix.util.spawnv_passfds", refused)
    with pytest.raises(BackendError, match="measures x cannot be started: Resource"), new_process("x"):
        pass


@pytest.mark.parametrize("interrupt", [signal.default_int_handler, signal.SIG_IGN], ids=["terminal", "background"])
def test_the_call_that_runs_is_stopped_with_the_block_and_cleans_up(tmp_path: Path, interrupt: object) -> None:
    """The shell ignores SIGINT in a process that it starts with `&`, and so do the processes of that one."""

    def began(*_: object) -> None:
        raise KeyboardInterrupt

    before, own = signal.signal(signal.SIGALRM, began), signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt), new_process("x") as call:
            call(keep, 1)  # the process has imported this module
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            call(wait_for_ever, tmp_path)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.signal(signal.SIGINT, own)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["began", "ended"]
    assert multiprocessing.active_children() == []


#: A program that is killed while its process measures.
MEASURES = """
import sys
from pathlib import Path
from stylert.benchmarks.processes import new_process
from tests.benchmarks.test_processes import wait_for_ever
if __name__ == "__main__":
    with new_process("x") as call:
        call(wait_for_ever, Path(sys.argv[1]))
"""


def test_the_process_ends_and_cleans_up_when_its_parent_is_killed(tmp_path: Path) -> None:
    script, folder = tmp_path / "script.py", tmp_path / "folder"
    script.write_text(MEASURES)
    folder.mkdir()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, str(script), str(folder)], env=environment) as parent:
        for _ in range(1200):
            if (folder / "began").exists():
                break
            time.sleep(0.05)
        parent.kill()
    for _ in range(1200):  # the wait itself takes 600 s
        if (folder / "ended").exists():
            break
        time.sleep(0.05)
    assert sorted(file.name for file in folder.iterdir()) == ["began", "ended"]


#: A system whose shared memory takes no semaphore.
WITHOUT_SEMAPHORES = """
import _multiprocessing, errno, os
class Full:
    SEM_VALUE_MAX = 1
    def __init__(self, *args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
_multiprocessing.SemLock = Full
from stylert.benchmarks.processes import new_process
if __name__ == "__main__":
    with new_process("x") as call:
        print(call(abs, -3))
"""


def test_no_shared_memory_is_needed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(WITHOUT_SEMAPHORES)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
