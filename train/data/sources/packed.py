"""Files that may be gzipped, read up to a number of unpacked bytes."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import BinaryIO, cast

from stylert.core.errors import DataError
from stylert.core.files.inputs import open_file
from stylert.core.images.pictures import one_line_message

#: Bytes of the packed file, at most.
MAX_SIZE = 2**30
MAGIC = b"\x1f\x8b"


def read_unpacked(path: Path, limit: int) -> bytes:
    """The unpacked content of a file.

    Raises:
        DataError: The file is damaged, or unpacks to more than `limit` bytes.
    """
    with open_file(path, DataError, MAX_SIZE) as file:
        is_packed = file.read(len(MAGIC)) == MAGIC
        file.seek(0)
        content = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if is_packed else file
        try:
            data = content.read(limit + 1)
        except (OSError, EOFError, zlib.error) as e:
            raise DataError(f"{path} cannot be read: {one_line_message(e)}") from None
    if len(data) > limit:
        raise DataError(f"{path} unpacks to over {limit // 2**20} MiB, more than any data set of its kind")
    return data
