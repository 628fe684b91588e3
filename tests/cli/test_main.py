"""The end of the command: one line and an exit code, whatever failed in the system around it."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from stylert.cli import console, doctor
from stylert.cli import main as cli
from stylert.cli.console import print_line
from stylert.core.errors import StylertError


def run(monkeypatch: pytest.MonkeyPatch, action: object) -> int:
    """Run `stylert doctor` with another action, and return its exit code."""

    def findings() -> dict[str, object]:
        if isinstance(action, BaseException):
            raise action
        assert callable(action)
        action()
        raise SystemExit(0)

    monkeypatch.setattr(doctor, "findings", findings)
    monkeypatch.setattr(sys, "argv", ["stylert", "doctor"])
    with pytest.raises(SystemExit) as e:
        cli.main()
    assert isinstance(e.value.code, int)
    return e.value.code


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "a" * 300), "a" * 300 + ": File name too long"),
        (PermissionError(errno.EACCES, "Permission denied", "/root/x\x1b[2J"), r"/root/x\x1b[2J: Permission denied"),
        (MemoryError(), "not enough memory"),
        (StylertError("x" * 60_000), "x" * 2000 + "..."),
        (
            ImportError("/lib/a.so: failed to map segment from shared object", name="a", path="/lib/a.so"),
            "a library cannot be loaded: /lib/a.so: failed to map segment from shared object",
        ),
        (RuntimeError("can't start new thread"), "cannot start a thread: the memory or the number of threads is limited"),
        (ModuleNotFoundError("", name="av"), "this needs av: pip install 'stylert[video]'"),
        (ModuleNotFoundError("", name="matplotlib.pyplot"), "this needs matplotlib: pip install 'stylert[bench]'"),
    ],
)
def test_a_failure_of_the_system_is_one_line(
    error: Exception, line: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, error) == 2
    assert capfd.readouterr().err == f"stylert: {line}\n"


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("", name="stylert.nowhere"),
        ImportError("cannot import name 'x'", name="stylert.core", path="/lib/stylert/core/__init__.py"),
        RuntimeError("a generator raised StopIteration"),
    ],
)
def test_a_fault_of_stylert_is_a_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(type(error)):
        run(monkeypatch, error)


def test_a_full_standard_output_is_one_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        monkeypatch.setattr(console, "console", Console())  # it keeps what it cannot write
        assert run(monkeypatch, lambda: print_line("wrote o")) == 2
    assert capfd.readouterr().err == "stylert: cannot write to standard output: No space left on device\n"


CLOSED = """
import os, sys
for number in map(int, sys.argv[1].split(",")):
    os.close(number)
sys.stdin, sys.stdout, sys.stderr = (None if str(n) in sys.argv[1] else s for n, s in enumerate((sys.stdin, sys.stdout, sys.stderr)))
sys.argv = ["stylert", "doctor", "--json", sys.argv[2]]
from stylert.core.files import atomic
whole = atomic.os.replace
def replace(*names):
    os.write(1, b"printed by a library")
    os.write(2, b"printed by a library")
    whole(*names)
atomic.os.replace = replace
from stylert.cli.main import main
main()
"""


@pytest.mark.parametrize("closed", ["1", "2", "0,1,2"])
def test_a_closed_standard_stream_is_never_an_output_file(closed: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CLOSED, closed, str(tmp_path / "d.json")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads((tmp_path / "d.json").read_text())["schema"] == 1


def test_characters_that_standard_output_cannot_encode_are_printed_as_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert run(monkeypatch, lambda: print_line("wrote ü \u2026")) == 0
    sys.stdout.flush()
    assert raw.getvalue() == b"wrote \\xfc \\u2026\n"


def test_bench_names_its_extra_before_it_works(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    monkeypatch.setattr(sys, "argv", ["stylert", "bench", os.devnull])
    with pytest.raises(SystemExit) as e:
        cli.main()
    assert e.value.code == 2
    assert "pip install 'stylert[bench]'" in capfd.readouterr().err
