"""Partial files and folders: results that a process writes under a hidden name, before they get their own.

The process holds a lock on what it writes. So a partial that a killed process left can be told from one that is being written.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stylert.core.errors import OutputError

PARTIAL_SUFFIX = ".stylert.partial"
#: A folder that is being replaced has this suffix for a moment, where the file system cannot exchange two folders.
ASIDE_SUFFIX = ".stylert.aside"

#: Bytes of a name in the usual file systems.
MAX_NAME = 255
#: Another process can get in the way of one step with files. It does not do so this often in a row.
MAX_ATTEMPTS = 100

_swept: set[Path] = set()


def new_partial_file(target: Path) -> tuple[Path, int]:
    """Make an empty file beside `target`, with the permissions that the umask gives.

    Returns:
        Its path, and a descriptor that holds its lock until it is closed.
    """
    return _new(target, lambda path: os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666))


def new_partial_folder(target: Path, mode: int = 0o777) -> tuple[Path, int]:
    """The same for a folder, whose permissions are at most `mode`."""

    def make(path: Path) -> int:
        os.mkdir(path, mode)
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    return _new(target, make)


def name_aside(target: Path) -> Path:
    """A new name beside `target`, from which `remove_stale_partials` gives `target` its own name back."""
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}{ASIDE_SUFFIX}")


def is_partial(name: str) -> bool:
    """Whether a file or folder of this name is a partial."""
    return name.startswith(".") and name.endswith((PARTIAL_SUFFIX, ASIDE_SUFFIX))


@contextmanager
def shown_as(path: str | Path, partial: Path) -> Iterator[None]:
    """Let an OutputError of the block name a partial by the path that its user knows. Its own name is gone when it is read."""
    try:
        yield
    except OutputError as e:
        if str(partial) not in str(e):
            raise
        raise OutputError(str(e).replace(str(partial), str(path))) from e


def lock(descriptor: int) -> bool | None:
    """Take the lock of an open file or folder, without waiting.

    Returns:
        Whether this process has it now, or None where the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def remove_stale_partials(folder: Path) -> None:
    """Remove the partials in `folder` that nobody writes any more. A process does this once for each folder.

    A folder that a killed process was about to replace gets its name back.
    """
    if folder in _swept:
        return
    _swept.add(folder)
    with os.scandir(folder) as entries:
        partials = [Path(entry.path) for entry in entries if is_partial(entry.name)]
    for path in partials:
        _remove_if_stale(path)


def _new(target: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    added = len("..") + 8 + len(PARTIAL_SUFFIX)
    name = os.fsdecode(os.fsencode(target.name)[: MAX_NAME - added])  # a name of the greatest length leaves no room for more
    for attempt in range(1, MAX_ATTEMPTS + 1):
        path = target.with_name(f".{name}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}")
        descriptor = None
        try:
            descriptor = make(path)
            # Between the two lines another process may have found it unlocked, and removed it.
            if lock(descriptor) is not False and os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return path, descriptor
        except FileExistsError:
            continue
        except FileNotFoundError:
            # Removed by that process, or the folder is gone. File systems that make no files, such as /proc, always say so.
            if descriptor is None and (attempt == MAX_ATTEMPTS or not target.parent.is_dir()):
                raise
        if descriptor is not None:
            os.close(descriptor)
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(path))


def _remove_if_stale(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # removed in the meantime, or another user's
        return
    try:
        if not lock(descriptor):
            return
        if not path.is_dir():
            path.unlink(missing_ok=True)
            return
        replaced = re.fullmatch(rf"\.(.+)\.[0-9a-f]{{8}}{re.escape(ASIDE_SUFFIX)}", path.name)
        if replaced is not None and not os.path.lexists(path.with_name(replaced[1])):
            os.rename(path, path.with_name(replaced[1]))
        else:
            shutil.rmtree(path, ignore_errors=True)
    except PermissionError:  # another user's, in a shared folder
        return
    finally:
        os.close(descriptor)
