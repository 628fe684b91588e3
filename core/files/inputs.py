"""Opens files that the user names, for reading: only regular files, up to a size.

A path may name a device such as `/dev/zero`, which never ends, or a pipe, which blocks.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from stylert.core.errors import StylertError, as_path


def open_file(path: str | Path, error: type[StylertError], max_bytes: int, kind: str = "file") -> BufferedReader:
    """Open a regular file for reading.

    Args:
        path: The file, or a link to it.
        error: Class of the error that refuses it.
        max_bytes: Size that is allowed.
        kind: First word of the messages, such as `checkpoint`.

    Raises:
        StylertError: An `error` with one line: the file is missing, not a regular file, too large, or not readable.
    """
    path = as_path(path, kind, error)
    try:
        # The first check keeps devices closed: the opening of some does something. The second is of the file that was opened.
        _check_regular(os.stat(path).st_mode)
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
        try:
            status = os.fstat(file.fileno())
            _check_regular(status.st_mode)
            if status.st_size > max_bytes:
                raise ValueError(f"is larger than {max_bytes:,} bytes")
        except BaseException:
            file.close()
            raise
    except FileNotFoundError:
        raise error(f"{kind} {path} does not exist") from None
    except OSError as e:
        raise error(f"{kind} {path} cannot be read: {e.strerror or e}") from None
    except ValueError as e:  # also of a path with a null character
        raise error(f"{kind} {path} {e}") from None
    return file


def read_file(path: str | Path, error: type[StylertError], max_bytes: int, kind: str = "file") -> bytes:
    """The content of a regular file. Arguments and errors are those of `open_file`."""
    with open_file(path, error, max_bytes, kind) as file:
        try:
            content = file.read(max_bytes + 1)
        except OSError as e:
            raise error(f"{kind} {path} cannot be read: {e.strerror or e}") from None
    if len(content) > max_bytes:  # it has grown since it was opened
        raise error(f"{kind} {path} is larger than {max_bytes:,} bytes")
    return content


def stored_bytes(file: BinaryIO) -> int:
    """The number of bytes in an open file, without its holes.

    Holes read as zeros and take no space on a disk. A system that knows no holes counts them as bytes.
    """
    descriptor = file.fileno()
    size, before, position, count = os.fstat(descriptor).st_size, os.lseek(descriptor, 0, os.SEEK_CUR), 0, 0
    try:
        while position < size:
            begin = os.lseek(descriptor, position, os.SEEK_DATA)
            position = os.lseek(descriptor, begin, os.SEEK_HOLE)
            count += position - begin
    except AttributeError:  # Windows
        return size
    except OSError as e:
        return count if e.errno == errno.ENXIO else size  # no bytes follow, but a hole; or the file system knows none
    finally:
        os.lseek(descriptor, before, os.SEEK_SET)
    return count


def _check_regular(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise ValueError("is a folder, not a file")
    if not stat.S_ISREG(mode):
        raise ValueError("is not a regular file")
