"""A signal ends a program quietly while it still imports its modules: examples, benchmarks and tools."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
#: A program in a new process. The import of its first module that is not of stylert sends a signal, and then waits for its effect.
STARTED = """
import runpy, signal, sys, time

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name in ("argparse", "numpy"):
            signal.raise_signal({number})
            time.sleep(60)

sys.meta_path.insert(0, Interrupting())
sys.argv = [{program!r}, "--help"]
if {is_module}:
    runpy.run_module({program!r}, run_name="__main__", alter_sys=True)
else:
    runpy.run_path({program!r}, run_name="__main__")
"""
SCRIPTS = [*sorted((ROOT / "examples").glob("*.py")), *sorted((ROOT / "benchmarks" / "tools").glob("*.py"))]
MODULES = sorted(
    path for room in ("benchmarks", "plugins") for path in (ROOT / room).rglob("*.py") if "tools" not in path.parts
)


def is_program(path: Path) -> bool:
    return '\nif __name__ == "__main__":\n' in path.read_text()


def module_name(path: Path) -> str:
    return f"stylert.{'.'.join(path.relative_to(ROOT).with_suffix('').parts)}".removesuffix(".__main__")


PROGRAMS = [str(path) for path in SCRIPTS if is_program(path)] + [module_name(path) for path in MODULES if is_program(path)]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: Path(program).name)
def test_a_signal_during_the_imports_of_a_program_ends_it_without_a_traceback(program: str) -> None:
    number = signal.SIGTERM if len(program) % 2 else signal.SIGINT
    code = STARTED.format(number=int(number), program=program, is_module=not program.endswith(".py"))
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr, done.stdout) == (128 + number, "stopped\n", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_stop_signal_has_its_exit_code_and_an_ignored_one_is_left_alone(number: signal.Signals) -> None:
    code = (
        "import signal; from stylert.core.programs.stop_signals import end_quietly\n{before}\nend_quietly()\n"
        f"signal.raise_signal({int(number)}); print('goes on')"
    )
    for before, expected in (
        ("", (128 + number, "", "stopped\n")),
        (f"signal.signal({int(number)}, signal.SIG_IGN)", (0, "goes on\n", "")),
    ):
        done = subprocess.run([sys.executable, "-c", code.format(before=before)], capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stdout, done.stderr) == expected


def test_programs_that_are_not_the_command_run_by_run_program() -> None:
    assert len(PROGRAMS) > 25
    for path in (*SCRIPTS, *MODULES):
        if is_program(path):
            text = path.read_text()
            guard = (
                'from stylert.core.programs.stop_signals import end_quietly\n\nif __name__ == "__main__":\n    end_quietly()'
            )
            assert guard in text, path
            assert "\n    run_program(" in text, path
