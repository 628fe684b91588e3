"""The process that reads Arrow, Parquet or LMDB for `native`: `python -m ... LIBRARY SOURCE FILE...`.

It is short of memory and of processor time on purpose, so that a damaged file cannot take the machine.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from stylert.core.child_processes import end_with_parent, limit_cpu_time, limit_memory
from stylert.core.errors import DataError
from stylert.train.data.sources.messages import Kind, Message, write_message

#: Bytes that it may allocate. Files that are mapped into memory do not count.
MAX_MEMORY = 2**30
#: Seconds of the processor for one picture. Waiting for a slow disk does not count.
SECONDS = 8.0


def main() -> None:
    """Read the files that the arguments name, and write messages to standard output."""
    library, source, *files = sys.argv[1:]
    end_with_parent()
    limit_memory(MAX_MEMORY)
    limit_cpu_time(SECONDS)
    # The pipe breaks where the other process needs no more pictures.
    with contextlib.suppress(BrokenPipeError), os.fdopen(os.dup(1), "wb") as pipe:
        os.dup2(2, 1)  # a library that prints does not print into the pipe
        _send(library, Path(source), [Path(f) for f in files], pipe)


def _send(library: str, source: Path, files: list[Path], pipe: BinaryIO) -> None:
    try:
        count, pictures = _open(library, source, files)
        write_message(pipe, Message(Kind.COUNT, count))
        for picture in pictures:
            limit_cpu_time(SECONDS)
            write_message(pipe, picture)
        write_message(pipe, Message(Kind.END))
    except DataError as e:
        write_message(pipe, Message(Kind.ERROR, text=str(e)))
    except MemoryError:
        reason = f"{source} cannot be read: a part of it needs more than {MAX_MEMORY // 2**20} MiB of memory"
        write_message(pipe, Message(Kind.ERROR, text=reason))


def _open(library: str, source: Path, files: list[Path]) -> tuple[int, Iterator[Message]]:
    if library == "lmdb":
        from stylert.train.data.sources.lmdb import read_lmdb

        return read_lmdb(source)
    from stylert.train.data.sources.columnar import read_tables

    return read_tables(source, files)


if __name__ == "__main__":
    main()
