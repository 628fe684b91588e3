"""Recognises the kind of a source by its path, and opens it."""

from __future__ import annotations

import zipfile
from pathlib import Path

from stylert.core.errors import DataError
from stylert.train.data.sources.cifar import cifar, is_cifar
from stylert.train.data.sources.files import archive, folder
from stylert.train.data.sources.idx import idx, is_idx
from stylert.train.data.sources.lmdb import is_lmdb, lmdb
from stylert.train.data.sources.picture import Source
from stylert.train.data.sources.tables import table_files, tables

KINDS = "a folder or zip of images, an LMDB, cifar-10-python.tar.gz, ...-images-idx3-ubyte.gz, Parquet or Arrow"


def open_source(path: str | Path) -> Source:
    """The pictures at `path`.

    Raises:
        DataError: The path is missing, of no known kind, damaged or unsafe.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if is_lmdb(path):
        return lmdb(path)
    if table := table_files(path):
        return tables(path, table)
    if path.is_dir():
        return folder(path)
    if is_idx(path):
        return idx(path)
    if is_cifar(path):
        return cifar(path)
    if path.suffix.lower() == ".zip" or zipfile.is_zipfile(path):
        return archive(path)
    raise DataError(f"{path} is none of what can be read: {KINDS}")
