"""Files and folders that appear whole or not at all.

The content is written beside its final place, synced to disk and then renamed. A link at the final place is followed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

from stylert.core.errors import OutputError, as_path
from stylert.core.files.locks import changing_folder
from stylert.core.files.partials import (
    MAX_ATTEMPTS,
    is_partial,
    lock,
    name_aside,
    new_partial_file,
    new_partial_folder,
    remove_stale_partials,
    shown_as,
)

#: Of Linux's `renameat2`.
AT_FDCWD, RENAME_EXCHANGE = -100, 2
#: Whether the system can tell rights of the user as whom a process acts, and not of the one who started it.
EFFECTIVE_IDS = os.access in os.supports_effective_ids
#: A message names so many files.
SHOWN_FILES = 3
#: So many files of others are looked at, of a folder that may be the home of somebody.
LOOKED_AT = 1000
#: A path has at most so many links, by the limit of Linux.
MAX_LINKS = 40

#: The names, relative to a folder, of the files in it that may be lost when the folder is replaced.
OwnFiles = Callable[[Path], Collection[str]]


@contextmanager
def atomic_file(path: str | Path, within: Path | None = None, *, by_library: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`. On success it becomes `path`; on failure it is removed.

    A file that replaces another one has its permissions, and its owner and group where this user may give it away.

    Args:
        path: The file.
        within: A folder above it, which others may have made: nothing between the two may be a link, which could lead anywhere.
        by_library: Whether the writer makes its file anew, or others beside it, such as safetensors or a hard link. The lock would
            not be on those. So the temporary path lies in a locked folder of its own, and has no file yet.

    Raises:
        OutputError: The folder of `path` cannot be made, the file cannot be written, `path` is not a regular file or is
            write-protected, or a link lies below `within`.
    """
    path = as_path(path, "file", OutputError)
    with _named_errors(path):
        check_no_links(path, within)
        target = _final_place(path)
        check_replaceable(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_stale_partials(target.parent)
        partial, descriptor = (new_partial_folder if by_library else new_partial_file)(target)
        temporary = partial / target.name if by_library else partial
    try:
        with _named_errors(path, temporary), shown_as(path, temporary):
            yield temporary
            if temporary.stat().st_nlink == 1:  # a hard link shares the permissions of its other name
                if by_library:
                    temporary.chmod(partial.stat().st_mode & 0o666)  # those that the umask gives
                _keep_owner(temporary, target)
                with contextlib.suppress(FileNotFoundError):
                    temporary.chmod(target.stat().st_mode & 0o777)
            _sync(temporary)
            os.replace(temporary, target)
            _sync(target.parent)
    finally:
        if by_library:
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def atomic_directory(path: str | Path, own_files: OwnFiles | None, within: Path | None = None) -> Iterator[Path]:
    """Yield a temporary folder beside `path`. On success it replaces `path`; on failure it is removed.

    An existing folder at `path` stays until the new one is complete. If the file system can exchange two folders, as those of
    Linux can, `path` exists at every moment. Two writers of the same folder both succeed, and the last one stays. A process that
    changes files in the folder (`changing_folder`) is waited for. A folder that replaces another one is no more open to other
    users than that one.

    Args:
        path: The folder.
        own_files: Names the files of an existing folder that may be lost. With None, all may be lost.
        within: As in `atomic_file`. If that folder is replaced during the block, nothing is written.

    Raises:
        OutputError: The folder cannot be made or written, or `path` is a file or the current folder. It holds files of others, or a
            mounted file system. Or a link lies below `within`, or `within` was replaced. Or others have the folder for long.
    """
    with _named_errors(path):
        check_no_links(path, within)
        target = _final_place(path)
        with _kept_in_place(target):
            _check_folder(path, target, own_files)
        around = None if within is None else os.stat(within)
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_stale_partials(target.parent)
        temporary, descriptor = new_partial_folder(target)
    try:
        with _named_errors(path, temporary), shown_as(path, temporary):
            try:
                yield temporary
            except Exception:  # the block may have failed because its folder has gone
                _check_same(path, within, around)
                raise
            for file in (*temporary.rglob("*"), temporary):
                _sync(file)
            with _kept_in_place(within), _kept_in_place(target):
                _check_same(path, within, around)
                _check_folder(path, target, own_files)  # files may have come in the meantime
                _keep_owner(temporary, target)
                with contextlib.suppress(FileNotFoundError):
                    former = target.stat().st_mode
                    temporary.chmod((temporary.stat().st_mode & former & 0o777) | (former & stat.S_ISGID))
                _put_in_place(temporary, target)
            _sync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # this folder, or the one that it replaced
        os.close(descriptor)


def append_line(path: str | Path, content: Mapping[str, Any], within: Path | None = None) -> None:
    """Append one JSON object to a file with a line for each. A kill may cut the last line; the next one begins a new line.

    Args:
        path: The file.
        content: The object.
        within: As in `atomic_file`.

    Raises:
        OutputError: The file cannot be written, or a link lies below `within`.
    """
    line = (json.dumps(content) + "\n").encode()
    check_no_links(path, within)
    with _named_errors(path), open(path, "ab+") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = b"\n" + line
        file.write(line)


def check_writable(path: str | Path | None) -> None:
    """Check, before a long computation, that its result can be written to the file `path`. None needs no check.

    Raises:
        OutputError: `path` is a folder or a device, or its folder, or the first above that exists, cannot be written.
    """
    if path is None:
        return
    with _named_errors(path):
        target = _final_place(path)
        check_replaceable(target)
        # Folders that are missing are made with the file: a command that is refused for another reason leaves none.
        above = next(folder for folder in target.parents if os.path.lexists(folder))
        tempfile.TemporaryFile(dir=above).close()


def check_replaceable(path: Path) -> None:
    """Raise OutputError if something other than a regular file is at `path`, or one that nobody may write. A rename would remove it."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if not stat.S_ISREG(mode):
        raise OutputError(f"cannot write {path}: it is {'a folder' if stat.S_ISDIR(mode) else 'not a regular file'}")
    if path in _mounts():
        raise OutputError(f"cannot write {path}: it is mounted there by itself; choose another name")
    if not mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
        raise OutputError(f"cannot write {path}: it is write-protected")


def check_no_links(path: str | Path, within: Path | None) -> None:
    """Raise OutputError if `path`, or a folder between `within` and `path`, is a link. Without `within`, links are followed."""
    for part in (Path(path), *Path(path).parents) if within is not None else ():
        if part == within:
            return
        if part.is_symlink():
            raise OutputError(f"cannot write {path}: {part} is a link; replace it by what it leads to")


def _final_place(path: str | Path) -> Path:
    """The path without links. Raises OutputError for a name of an open descriptor, as `/dev/stdout` is.

    Such a name leads to any file that the caller of the command has opened, even to one that is deleted. A rename would put
    a new file at the place of that one, and all that is written to the descriptor would be lost.
    """
    link = os.path.abspath(path)
    for _ in range(MAX_LINKS):
        folder, name = os.path.split(link)
        folder = os.path.realpath(folder)
        if re.fullmatch(r"/proc/.*/fd|/dev/fd", folder):
            raise OutputError(f"cannot write {path}: it is an open stream, not a file; name a file")
        try:
            link = os.path.join(folder, os.readlink(os.path.join(folder, name)))
        except OSError:  # it is no link
            break
    return Path(os.path.realpath(path))


def _check_folder(path: str | Path, target: Path, own_files: OwnFiles | None) -> None:
    """Raise OutputError unless the folder `target` may be replaced, or does not exist. Messages show `path`."""
    try:
        mode = os.lstat(target).st_mode  # once: between two questions, another thread may replace the folder
    except (OSError, ValueError):
        return
    if not (stat.S_ISDIR(mode) or (stat.S_ISLNK(mode) and target.is_dir())):
        raise OutputError(f"cannot write {path}: a file of that name is in the way")
    if _works_within(target):
        raise OutputError(f"cannot replace {path}: it is the current folder, or one above it; start from another one")
    if not mode & 0o222:
        raise OutputError(f"cannot replace {path}: it is write-protected")
    for mount in _mounts():
        if mount.is_relative_to(target):  # it can neither be renamed nor removed
            raise OutputError(
                f"cannot replace {path}: a file system is mounted at {mount}; choose a folder inside it, or another one"
            )
    if own_files is None:
        return
    others = list(islice(_files_beside(target, set(own_files(target))), LOOKED_AT))
    for name in others:  # a file that cannot be read may be one of `own_files`, or the one that lists them
        if not (target / name).is_symlink() and not os.access(target / name, os.R_OK, effective_ids=EFFECTIVE_IDS):
            raise OutputError(f"cannot replace {path}: {name} in it cannot be read: {os.strerror(errno.EACCES)}")
    if others:
        names = ", ".join(others[:SHOWN_FILES]) + (", …" if len(others) > SHOWN_FILES else "")
        raise OutputError(f"cannot replace {path}: it also holds {names}; move them, or choose another folder")


def _kept_in_place(folder: Path | None) -> AbstractContextManager[None]:
    """Keep the folder at a place while it is replaced, or while one in it is. A process that changes files in it is waited for."""
    return changing_folder(folder) if folder is not None and folder.is_dir() else nullcontext()


def _check_same(path: str | Path, within: Path | None, before: os.stat_result | None) -> None:
    """Raise OutputError if the folder `within` is another one than before. Then `path` belongs to the former one."""
    if within is None or before is None:
        return
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.stat(within), before):
            return
    raise OutputError(f"cannot write {path}: {within} was replaced in the meantime; start again")


def _keep_owner(temporary: Path, target: Path) -> None:
    """Give a new file or folder the owner and the group of the one that it replaces, as far as this user may."""
    with contextlib.suppress(OSError):
        former = target.stat()
        os.chown(temporary, -1, former.st_gid)
        os.chown(temporary, former.st_uid, -1)


def _mounts() -> list[Path]:
    """Files and folders at which something is mounted. A bind mount of the same file system is seen nowhere else."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:  # another system
        return []
    points = (line.split(b" ")[4] for line in lines)
    return [Path(os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), point))) for point in points]


def _works_within(folder: Path) -> bool:
    """Whether the current folder is this one, or lies below it. A current folder that was removed does not."""
    try:
        return Path.cwd().is_relative_to(folder)
    except FileNotFoundError:
        return False


def _files_beside(folder: Path, own: set[str]) -> Iterator[str]:
    """The names of the files and links below `folder` that are not in `own`. Partials do not count.

    Raises:
        OSError: A folder cannot be read, so that nobody knows what would be lost with it.
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # another thread has removed it
            raise error

    for parent, folders, files in os.walk(folder, onerror=refuse):
        below = Path(parent).relative_to(folder)
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        folders[:] = [name for name in folders if not is_partial(name) and name not in links]
        names: Iterable[str] = ((below / name).as_posix() for name in (*files, *links) if not is_partial(name))
        yield from sorted(name for name in names if name not in own)


def _put_in_place(temporary: Path, target: Path) -> None:
    """Give the folder `temporary` the name `target`. A folder that has this name gets the other one."""
    for attempt in range(1, MAX_ATTEMPTS + 1):
        try:
            if not os.path.lexists(target):
                os.rename(temporary, target)
            elif not _exchange(temporary, target):
                _rename_twice(temporary, target)
            return
        except FileNotFoundError:
            if attempt == MAX_ATTEMPTS or not temporary.exists():
                raise
        except OSError as e:
            if attempt == MAX_ATTEMPTS or e.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        # Another process has removed the folder at `target`, or put its own there.


def _exchange(a: Path, b: Path) -> bool:
    """Exchange the names of two folders at once. Returns False where the system or the file system cannot do it."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(b))


def _rename_twice(temporary: Path, target: Path) -> None:
    """Exchange the names of two folders by renames. After a kill in between, `remove_stale_partials` restores `target`."""
    aside = name_aside(target)
    descriptor = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        lock(descriptor)
        os.rename(target, aside)
        os.rename(temporary, target)
        os.rename(aside, temporary)
    except BaseException:
        if os.path.lexists(aside) and not os.path.lexists(target):
            os.rename(aside, target)
        raise
    finally:
        if os.path.lexists(aside):  # another process has put its folder at `target` in the meantime
            shutil.rmtree(aside, ignore_errors=True)
        os.close(descriptor)


@contextmanager
def _named_errors(path: str | Path, temporary: Path | None = None) -> Iterator[None]:
    """Turn an OSError into one line that names `path`, and the file that it concerns where that is another one."""
    try:
        yield
    except OSError as e:
        named = os.fsdecode(e.filename) if isinstance(e.filename, str | bytes) else None
        if e.errno in (errno.EFBIG, errno.ENOSPC, errno.EDQUOT):  # a copy names its source
            named = None
        other = f" ({named})" if temporary is not None and named not in (None, str(temporary), str(path)) else ""
        raise OutputError(f"cannot write {path}: {e.strerror or e}{other}") from e
    except ValueError as e:
        if temporary is not None:  # of the block
            raise
        raise OutputError(f"cannot write {str(path)!r}: {e}") from None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
