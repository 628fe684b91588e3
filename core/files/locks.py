"""Locks of folders, which keep other processes out. The lock is on the folder itself, and not on its name.

`locked_folder` is for long work, and refuses at once. `changing_folder` is for a moment, and waits. A forked child has no locks.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stylert.core.errors import OutputError, shown_line
from stylert.core.files.partials import lock

#: A change of a folder takes less than so many seconds. A lock that lasts longer is that of long work.
WAIT_SECONDS = 10.0
POLL_SECONDS = 0.02
#: A folder that is not there may come back within so many seconds.
ABSENT_SECONDS = 1.0

#: A wait is told after so many seconds.
TOLD_SECONDS = 1.0


@dataclass(frozen=True)
class _Lock:
    """A lock that this process has: of the thread that took it, on an open descriptor of the folder."""

    thread: int
    descriptor: int


#: The locks that this process has, by the device and inode of the folder.
_locks: dict[tuple[int, int], _Lock] = {}


@contextmanager
def locked_folder(path: str | Path) -> Iterator[None]:
    """Keep others out of a folder during the block. A file system without locks keeps out nobody.

    The folder is made if it does not exist, and removed again if it is still empty at the end. A block within the block, of
    the same thread and folder, changes nothing.

    Raises:
        OutputError: Another process or thread has the folder, or it cannot be made.
    """
    try:
        is_new = not os.path.exists(path)
        Path(path).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError) as e:  # ValueError: a null character
        raise OutputError(f"cannot write into {shown_line(str(path))}: {getattr(e, 'strerror', None) or e}") from None
    folder = _identity(os.fstat(descriptor))
    is_within = _is_mine(folder)
    is_free = is_within or lock(descriptor) is not False
    owner = os.getpid()
    try:
        if not is_free:
            raise OutputError(f"cannot write into {path}: another process is writing there")
        with contextlib.nullcontext() if is_within else _noted(folder, descriptor):
            yield
    finally:
        if is_new and is_free and owner == os.getpid() and not os.listdir(descriptor):
            with contextlib.suppress(OSError):  # a file has come at this moment
                os.rmdir(path)
        os.close(descriptor)


@contextmanager
def changing_folder(path: str | Path) -> Iterator[None]:
    """Keep others out of a folder for a moment, such as to read a file in it and to write another one by that.

    It waits while another process or thread changes the folder. `atomic_directory` takes this lock as well, before it puts another
    folder in its place: so `path` leads to one and the same folder during the block. A block within the block, of the same
    thread and folder, changes nothing. A file system without locks keeps out nobody.

    Raises:
        OutputError: The folder cannot be opened, or others have it for more than `WAIT_SECONDS`.
    """
    descriptor, is_within = _wait_for(path)
    folder = _identity(os.fstat(descriptor))
    try:
        with contextlib.nullcontext() if is_within else _noted(folder, descriptor):
            yield
    finally:
        os.close(descriptor)


@contextmanager
def _noted(folder: tuple[int, int], descriptor: int) -> Iterator[None]:
    """Note that this thread has the lock of a folder during the block."""
    _locks[folder] = _Lock(threading.get_ident(), descriptor)
    try:
        yield
    finally:
        _locks.pop(folder, None)  # on a file system without locks, another thread may have had it, too


def _wait_for(path: str | Path) -> tuple[int, bool]:
    """A descriptor with the lock of the folder that is at `path` now, and whether this thread had the lock before."""
    begin = time.monotonic()
    end, is_told = begin + WAIT_SECONDS, False
    while True:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as e:
            # A folder that is being replaced has no name for a moment, where two cannot be exchanged.
            if isinstance(e, FileNotFoundError) and time.monotonic() < begin + ABSENT_SECONDS:
                time.sleep(POLL_SECONDS)
                continue
            raise OutputError(f"cannot write into {shown_line(str(path))}: {e.strerror or e}") from None
        try:
            status = os.fstat(descriptor)
            is_within = _is_mine(_identity(status))
            if is_within or lock(descriptor) is not False:
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(status, os.stat(path)):  # otherwise it was replaced while this process waited
                        return descriptor, is_within
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if time.monotonic() > end:
            raise OutputError(f"cannot write into {path}: another process is writing there")
        if not is_told and time.monotonic() > begin + TOLD_SECONDS:
            is_told = True
            _tell(f"waiting up to {WAIT_SECONDS:g} s for {_holder(status)}, which is writing into {shown_line(str(path))}")
        time.sleep(POLL_SECONDS)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _is_mine(folder: tuple[int, int]) -> bool:
    """Whether this thread has the lock of a folder."""
    held = _locks.get(folder)
    return held is not None and held.thread == threading.get_ident()


def _holder(status: os.stat_result) -> str:
    """The process that has the lock of a folder, for a message. Linux lists locks in /proc; other systems tell nobody."""
    try:
        listed = Path("/proc/locks").read_text(encoding="utf-8")
    except OSError:
        listed = ""
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    process = re.search(rf"FLOCK +\S+ +WRITE +([1-9]\d*) +{place} ", listed)
    if process is None:
        return "another process"
    return "another thread" if int(process[1]) == os.getpid() else f"process {process[1]}"


def _tell(line: str) -> None:
    """Print a line to the standard error. A closed or full one does not end the work."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)


def _forget_locks() -> None:
    """Leave the locks of the parent to the parent, in a forked child.

    The child has a copy of each descriptor. As long as it is open, the lock stays, even after the parent has given it back. So
    the descriptor gets the folder anew, without the lock.
    """
    for held in _locks.values():
        with contextlib.suppress(OSError):
            anew = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=held.descriptor)
            os.dup2(anew, held.descriptor, inheritable=False)
            os.close(anew)
    _locks.clear()


os.register_at_fork(after_in_child=_forget_locks)
