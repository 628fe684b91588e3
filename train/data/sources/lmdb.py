"""LMDB folders of encoded images, as for LSUN. Needs the `datasets` extra."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stylert.core.errors import DataError
from stylert.core.images.pictures import one_line_message
from stylert.train.data.sources.messages import Message, picture_message
from stylert.train.data.sources.native import native_source
from stylert.train.data.sources.picture import Source


def is_lmdb(path: Path) -> bool:
    """Whether a folder holds an LMDB database."""
    return path.is_dir() and (path / "data.mdb").is_file()


def lmdb(path: Path) -> Source:
    """Every value of the database, in the order of the keys.

    Raises:
        DataError: The database cannot be read.
    """
    return native_source("lmdb", path, [])


def read_lmdb(path: Path) -> tuple[int, Iterator[Message]]:
    """The number of values, and a message for each. For the reading process alone.

    Raises:
        DataError: The database cannot be read. The iterator raises it too.
    """
    import lmdb as library

    def unreadable(error: Exception) -> DataError:
        return DataError(f"{path} is not an LMDB that can be read: {one_line_message(error)}")

    def pictures() -> Iterator[Message]:
        try:
            with database.begin(buffers=True) as transaction:
                for key, value in transaction.cursor():
                    yield picture_message(bytes(key).decode("ascii", "backslashreplace"), value, None)
        except library.Error as e:
            raise unreadable(e) from None

    try:
        database = library.open(str(path), readonly=True, lock=False, readahead=False, create=False)
        return int(database.stat()["entries"]), pictures()
    except library.Error as e:
        raise unreadable(e) from None
