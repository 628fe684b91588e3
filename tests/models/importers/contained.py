"""Reads files in child processes with little memory and time, and tells what became of each.

As a program it reads paths from standard input, one a line, and prints one JSON line for each. It imports the readers once and
then forks, so a child costs milliseconds. Only NumPy and stylert are loaded, without torch.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Bytes of memory and seconds of processor time that one file may take.
MEMORY, SECONDS = 2**30, 10


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Attributes:
        refusal: The line that refuses it, or None where it was read.
        memory: Bytes that the reading needed at most, beside those of the program.
        fault: A traceback, or the signal that ended the child. None where there was neither.
    """

    refusal: str | None
    memory: int
    fault: str | None

    def check(self) -> None:
        """Fail unless the file was read, or refused in one line, within `MEMORY` and `SECONDS`."""
        assert self.fault is None, self.fault
        assert self.memory < MEMORY
        if self.refusal is not None:
            assert self.refusal.isprintable()
            assert "it is damaged (" not in self.refusal, "an error of Python's own, which no check of the reader foresaw"


class Reader:
    """The child process. Use it through `contained_reader`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def read(self, path: Path) -> Outcome:
        """Read one file: a checkpoint of stylert or of another project."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        return Outcome(**json.loads(self.process.stdout.readline()))


@contextmanager
def contained_reader() -> Iterator[Reader]:
    """A reader for many files."""
    command: Sequence[str] = (sys.executable, __file__)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        yield Reader(process)
        assert process.stdin is not None
        process.stdin.close()


def _serve() -> None:
    from stylert.core.errors import StylertError
    from stylert.models.importers.import_checkpoint import import_checkpoint

    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for line in sys.stdin:
        answer_end, child_end = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(answer_end)
            resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MEMORY,) * 2)
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
            answer: dict[str, Any] = {"refusal": None, "fault": None}
            try:
                import_checkpoint(line.rstrip("\n"))
            except StylertError as e:
                answer["refusal"] = str(e)
            except BaseException:
                answer["fault"] = traceback.format_exc()
            os.write(child_end, json.dumps(answer).encode()[:60_000])
            os._exit(0)
        os.close(child_end)
        with os.fdopen(answer_end, "rb") as file:
            text = file.read()
        _, status, usage = os.wait4(child, 0)
        if os.WIFSIGNALED(status):
            name = signal.Signals(os.WTERMSIG(status)).name
            answer = {"refusal": None, "fault": f"the reader died of {name} after {usage.ru_utime:.1f} s"}
        else:
            answer = json.loads(text)
        print(json.dumps(answer | {"memory": max(usage.ru_maxrss - own, 0) * 1024}), flush=True)


def _address_space() -> int:
    """Bytes that this process has mapped."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    _serve()
