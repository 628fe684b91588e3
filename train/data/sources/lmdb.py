"""LMDB folders of encoded images, as LSUN comes. Needs the `datasets` extra."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stylert.core.errors import DataError, missing_extra
from stylert.train.data.sources.picture import Picture, Source, check_count, limited, one_line


def is_lmdb(path: Path) -> bool:
    return path.is_dir() and (path / "data.mdb").is_file()


def lmdb(path: Path) -> Source:
    """Every value of the database, in the order of its keys."""
    try:
        import lmdb as library
    except ImportError:
        raise missing_extra("lmdb", "datasets") from None
    try:
        database = library.open(str(path), readonly=True, lock=False, readahead=False, create=False)
        count = int(database.stat()["entries"])
    except library.Error as e:
        raise DataError(f"{path} is not an LMDB that can be read: {one_line(e)}") from None
    check_count(path, count)

    def pictures() -> Iterator[Picture]:
        with database.begin(buffers=True) as transaction:
            for key, value in transaction.cursor():
                name = bytes(key).decode("ascii", "backslashreplace")
                yield Picture(name, lambda value=value, name=name: bytes(value[: limited(name, len(value))]))  # type: ignore[misc]

    return Source(count, pictures)
