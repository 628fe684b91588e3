"""A signal ends a command with `stopped` and its exit code, whatever the command does at that moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_main import run

#: A command in a process of its own. `{action}` takes the place of `stylert doctor`; it may call `send`.
PROCESS = """
import os, sys, time
from stylert.cli import main as cli

def send(number={number}):
    os.kill(os.getpid(), number)
    for _ in range(100):
        pass  # Python calls its handlers between instructions

{definitions}
def findings():
    {action}
    raise SystemExit(0)

def run_command(whole=cli._run_command):
    from stylert.cli import doctor
    doctor.findings = findings
    return whole()

cli._run_command = run_command
sys.argv = ["stylert", "doctor"]
cli.main()
"""
#: A signal comes while the streams are emptied.
EMPTIED = """
from stylert.core.programs import runner
runner._empty = lambda stream, whole=runner._empty: (send(), whole(stream))
"""
NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def process(number: signal.Signals, action: str, definitions: str = "") -> tuple[int, str, str]:
    """The exit code of a command, and what it printed on stdout and stderr."""
    code = PROCESS.format(number=int(number), definitions=definitions, action=action)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_in_code_that_is_given_as_text_has_its_own_exit_code(number: signal.Signals, tmp_path: Path) -> None:
    code = PROCESS.format(number=int(number), definitions="", action="exec('send()', {'send': send}); time.sleep(20)")
    (tmp_path / "program.py").write_text(code)
    command = [sys.executable, "-m", "program"]  # Python ends a module in another way than a file
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (128 + number, "stopped\n")


WEAK = """
import weakref
class Thing: pass
def in_callback(call):
    thing = Thing()
    reference = weakref.ref(thing, lambda _: call())
    del thing
"""


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_in_a_callback_whose_exceptions_python_discards_ends_the_command(number: signal.Signals) -> None:
    code, _, err = process(number, "in_callback(send); time.sleep(20)", WEAK)
    assert (code, err.split()) == (128 + number, ["stopped"])


def test_a_signal_counts_if_a_library_discarded_the_exception_of_an_earlier_one() -> None:
    swallowing = "def swallow():\n    try:\n        send()\n    except BaseException:\n        pass\n"
    code, _, err = process(signal.SIGTERM, "swallow(); send(); time.sleep(20)", swallowing)
    assert (code, err.split()) == (143, ["stopped"])


@pytest.mark.parametrize("number", NUMBERS)
def test_a_second_signal_does_not_interrupt_what_cleans_up(number: signal.Signals) -> None:
    cleaning = """
from contextlib import contextmanager
@contextmanager
def cleaned():
    try:
        yield
    finally:
        send()
        try:
            raise OSError
        except OSError:
            send()
        print("cleaned", flush=True)
def work():
    with cleaned():
        send()
"""
    code, out, err = process(number, "work()", cleaning)
    assert (code, out.split(), err.split()) == (128 + number, ["cleaned"], ["stopped"])


@pytest.mark.parametrize("error", ["ImportError('initialization failed')", "RuntimeError('of C++')", "OSError(5, 'failed')"])
def test_an_error_that_a_library_makes_of_the_signal_is_no_error(error: str) -> None:
    turning = f"def turn():\n    try:\n        send()\n    except BaseException:\n        pass\n    raise {error}\n"
    code, _, err = process(signal.SIGINT, "turn()", turning)
    assert (code, err.split()) == (130, ["stopped"])


def test_the_handlers_are_set_before_anything_slow_is_imported() -> None:
    code = "import sys; before = set(sys.modules); import stylert.cli.main; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert {name for name in imported if name.startswith("stylert.")} == {
        *("stylert.cli", "stylert.cli.main", "stylert.core"),
        *(f"stylert.core.programs{n}" for n in ("", ".runner", ".stop_signals")),
    }
    assert not imported & {"asyncio", "ctypes", "logging", "numpy", "rich", "subprocess", "typer"}


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(
    "moment", ["send()", "atexit.register(send)", "keep = Late()", "threading.Thread(target=late).start()"]
)
def test_a_signal_after_the_end_of_a_command_leaves_its_exit_code(number: signal.Signals, moment: str) -> None:
    late = f"""
import atexit, threading
class Late:
    def __del__(self, kill=os.kill, pid=os.getpid()):
        kill(pid, {int(number)})
def late():
    threading.main_thread().join()
    send()
"""
    if moment == "send()":
        moment, late = "pass", late + EMPTIED
    code, _, err = process(number, f"global keep; {moment}", late)
    assert (code, err) == (0, "")


def buffered() -> dict[str, str]:
    """The environment, with streams that keep what they cannot write."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


@pytest.mark.parametrize("streams", ["2>/dev/full", "2>&-", "2> >(:)"])
@pytest.mark.parametrize(("action", "expected"), [("pass", 0), ("send()", 143)])
def test_a_standard_error_that_takes_nothing_leaves_the_exit_code(streams: str, action: str, expected: int) -> None:
    note = "from stylert.cli.console import print_note; time.sleep(0.2); print_note('note')"
    code = PROCESS.format(number=15, definitions="", action=f"{note}; {action}")
    done = subprocess.run(["bash", "-c", f'exec "$0" -c "$1" {streams}', sys.executable, code], timeout=120, env=buffered())
    assert done.returncode == expected


def test_a_signal_during_a_command_in_this_process_ends_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, lambda: signal.raise_signal(signal.SIGTERM)) == 143
    assert capfd.readouterr().err.split() == ["stopped"]
