"""Recognises the kind of a source by its path, and opens it."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from stylert.core.errors import DataError
from stylert.core.files.inputs import open_file
from stylert.train.data.image_files import MAX_SIZE
from stylert.train.data.sources.cifar import cifar, is_cifar
from stylert.train.data.sources.columnar import table_files, tables
from stylert.train.data.sources.files import image_files
from stylert.train.data.sources.idx import idx, is_idx
from stylert.train.data.sources.lmdb import is_lmdb, lmdb
from stylert.train.data.sources.picture import Source

#: Kinds that training does not read itself.
DATABASE, TABLE, ARRAYS = "an LMDB", "a table", "an archive of arrays"
KINDS = "a folder or zip of images, an LMDB, cifar-10-python.tar.gz, ...-images-idx3-ubyte.gz, Parquet or Arrow"


def open_source(path: str | Path) -> Source:
    """The pictures at `path`.

    Raises:
        DataError: The path is missing, of no known kind, damaged or unsafe.
    """
    path = Path(path)
    is_folder = os.path.isdir(path)
    if not is_folder:
        open_file(path, DataError, MAX_SIZE, "source").close()  # no device or pipe gets as far as a reader
    if is_lmdb(path):
        return lmdb(path)
    if table := table_files(path):
        return tables(path, table)
    if is_folder:
        return image_files(path)
    if is_idx(path):
        return idx(path)
    if is_cifar(path):
        return cifar(path)
    if path.suffix.lower() == ".zip" or zipfile.is_zipfile(path):
        return image_files(path)
    raise DataError(f"{path} is none of what can be read: {KINDS}")


def kind_to_convert(path: Path) -> str | None:
    """The kind of a source that `open_source` reads and training does not; None for others."""
    if not (path.is_file() or path.is_dir()):
        return None  # a device or pipe is not opened
    if is_lmdb(path):
        return DATABASE
    if table_files(path):
        return TABLE
    return ARRAYS if is_idx(path) or is_cifar(path) else None
