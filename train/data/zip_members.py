"""The list of the files of a zip, read within bounds.

A zip ends with its central directory: a record of 46 bytes and a name for each file. `zipfile` makes an object of each record, of
about 700 bytes, before anything else can be known of the archive.
"""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from stylert.core.errors import DataError, shown_name
from stylert.core.images.pictures import one_line_message

File = TypeVar("File")

#: Files of a zip, at most. ImageNet has 1,281,167 images; their list takes about 1 GiB of memory.
MAX_FILES = 1_350_000
#: Bytes of the central directory, at most: `MAX_FILES` records with names of 75 characters and the dates that zip programs add.
#: Several copies of each name are held.
MAX_DIRECTORY = 192 * 2**20
#: The first bytes of each record of the central directory.
RECORD = b"PK\1\2"
#: Unpacked bytes of a zip per byte of its size, at most. PNG and JPEG are compressed already.
MAX_EXPANSION = 200
#: Other methods unpack a member in one piece, whatever its size.
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def zip_members(source: Path, file: BinaryIO) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """Open a zip.

    Args:
        source: Its name, for messages.
        file: Its content.

    Returns:
        The archive, and its files by name, with `/` between folders.

    Raises:
        DataError: It is damaged or has too many files. Or it is unsafe: a name or link leads out of it, two files have one
            name, or it unpacks to far more than its size.
    """
    archive = _opened(source, file)
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        if info.is_dir() or info.filename.endswith("\\"):
            continue
        name = info.filename
        # Text and not paths, since there may be a million of them.
        whole = name.replace("\\", "/")
        parts = [part for part in whole.split("/") if part not in ("", ".")]
        if not parts or whole.startswith("/") or ".." in parts or ":" in parts[0]:
            raise DataError(f"{source}: the name {shown_name(name)} leads out of the archive")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise DataError(f"{source}: {shown_name(name)} is a link")
        if info.compress_type not in METHODS:
            raise DataError(
                f"{source}: {shown_name(name)} is packed with method {info.compress_type}; stored and deflated files are read"
            )
        add_file(members, "/".join(parts), info, source)
    unpacked = sum(info.file_size for info in members.values())
    size = os.fstat(file.fileno()).st_size
    if unpacked > MAX_EXPANSION * max(size, 1):
        raise DataError(f"{source} would unpack to {unpacked / 2**20:.0f} MiB, over {MAX_EXPANSION} times its size")
    return archive, members


def add_file(files: dict[str, File], name: str, file: File, source: Path) -> None:
    """Add a file by its name. Raises DataError if there is one already."""
    if name in files:
        raise DataError(f"{source} holds two files with the name {shown_name(name)}")
    files[name] = file


def _opened(source: Path, file: BinaryIO) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(cast(BinaryIO, _BoundedDirectory(file)))
    except MemoryError:
        raise DataError(f"dataset {source} cannot be read: there is too little memory for the list of its files") from None
    except Exception as e:  # zipfile raises many types for a damaged archive
        raise DataError(f"dataset {source} cannot be read: {one_line_message(e)}") from None
    archive.fp = file  # its list is complete; the files themselves are bounded one by one
    return archive


class _BoundedDirectory:
    """A zip for `zipfile` to list: it reads the central directory in one piece, which is looked at before it is taken apart."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if size > MAX_DIRECTORY:
            raise DataError(
                f"the list of its files has {size / 2**20:,.0f} MiB, and at most {MAX_DIRECTORY / 2**20:.0f} are read"
            )
        data = self.file.read(size)
        if (files := data.count(RECORD)) > MAX_FILES:
            raise DataError(f"it has {files:,} files, and a zip of at most {MAX_FILES:,} is read; a folder may have more")
        return data
