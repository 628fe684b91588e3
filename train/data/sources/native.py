"""Sources that a native library reads, in a process of its own.

Arrow and LMDB believe the offsets in a file. A damaged file can end the process that reads it with SIGSEGV, SIGBUS or
SIGABRT. So `reading_process` reads it, and its end is an error of one line here. The pictures come through a pipe.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from stylert.core.child_processes import python_command
from stylert.core.errors import DataError, PictureError, missing_extra
from stylert.train.data.sources.messages import Kind, Message, read_message
from stylert.train.data.sources.picture import Picture, Source, check_count

MODULE = "stylert.train.data.sources.reading_process"
#: Seconds that a process may take to end once its pipe is closed.
END_SECONDS = 10
#: Characters of an unexpected error that are kept.
MAX_TRACEBACK = 20_000


def native_source(library: str, path: Path, files: list[Path]) -> Source:
    """The pictures of some files.

    Args:
        library: `pyarrow` or `lmdb`, which reads them.
        path: The source as the user named it.
        files: The files to read, in order.

    Raises:
        DataError: The files cannot be read, or the process ended while reading them.
        BackendError: The library is not installed.
    """
    if importlib.util.find_spec(library) is None:
        raise missing_extra(library, "datasets")
    process = _ReadingProcess(library, path, files)
    try:
        count = process.receive(Kind.COUNT).number
        check_count(path, count)
    except BaseException:
        process.close()
        raise
    return Source(count, lambda: process.pictures(count), process.close)


class _ReadingProcess:
    """A process that sends the number of pictures, and then the pictures."""

    def __init__(self, library: str, path: Path, files: list[Path]) -> None:
        self.path = path
        self.errors: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
        self.process = subprocess.Popen(
            python_command("-m", MODULE, library, path, *files),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment,
            process_group=0,  # Ctrl-C reaches this process alone, which then ends the other
        )

    def pictures(self, count: int) -> Iterator[Picture]:
        """All pictures, in order."""
        for _ in range(count):
            message = self.receive(Kind.PICTURE, Kind.DAMAGED_PICTURE)
            yield Picture(message.text, partial(_content, message), message.label)

    def receive(self, *kinds: Kind) -> Message:
        """The next message, which must be of one of these kinds. Raises DataError for an error or the end of the process."""
        assert self.process.stdout is not None, "it is a pipe"
        message = read_message(self.process.stdout)
        if message is None:
            raise self._end()
        if message.kind is Kind.ERROR:
            raise DataError(message.text)
        if message.kind not in kinds:
            raise DataError(f"{self.path} is damaged: it holds fewer pictures than it declares")
        return message

    def close(self) -> None:
        """End the process."""
        assert self.process.stdout is not None, "it is a pipe"
        self.process.kill()
        self.process.stdout.close()
        self.process.wait()
        self.errors.close()

    def _end(self) -> Exception:
        """The error for a process that ended, or sent no message."""
        try:
            status = self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:  # it waits for this process to read more
            status = 0
        if status == 0:
            return DataError(f"{self.path} is damaged: the process that reads it sent no message of a known form")
        if status == -signal.SIGPROF:
            return DataError(f"{self.path} is damaged: the library that reads it came to no end")
        if status < 0:
            return DataError(f"{self.path} is damaged: the library that reads it ended with {signal.Signals(-status).name}")
        self.errors.seek(0)
        text = self.errors.read()[-MAX_TRACEBACK:].decode(errors="replace")
        return RuntimeError(f"the process that reads {self.path} ended with status {status}: {text}")


def _content(message: Message) -> bytes:
    """The picture in a message."""
    if message.kind is Kind.DAMAGED_PICTURE:
        raise PictureError(message.content.decode())
    return message.content
