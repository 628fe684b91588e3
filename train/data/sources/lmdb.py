"""LMDB folders of encoded images, as for LSUN. Needs the `datasets` extra."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stylert.core.errors import DataError, missing_extra
from stylert.train.data.sources.picture import Picture, Source, check_count, check_size, one_line_message


def is_lmdb(path: Path) -> bool:
    """Whether a folder holds an LMDB database."""
    return path.is_dir() and (path / "data.mdb").is_file()


def lmdb(path: Path) -> Source:
    """Every value of the database, in the order of the keys.

    Raises:
        DataError: The database cannot be read.
    """
    try:
        import lmdb as library
    except ImportError:
        raise missing_extra("lmdb", "datasets") from None
    try:
        database = library.open(str(path), readonly=True, lock=False, readahead=False, create=False)
        count = int(database.stat()["entries"])
    except library.Error as e:
        raise DataError(f"{path} is not an LMDB that can be read: {one_line_message(e)}") from None
    check_count(path, count)

    def picture(key: memoryview, value: memoryview) -> Picture:
        name = bytes(key).decode("ascii", "backslashreplace")

        def read() -> bytes:
            check_size(name, len(value))
            return bytes(value)

        return Picture(name, read)

    def pictures() -> Iterator[Picture]:
        # The values stay valid until the transaction ends, so each picture is read within the loop over them.
        with database.begin(buffers=True) as transaction:
            for key, value in transaction.cursor():
                yield picture(key, value)

    return Source(count, pictures)
