"""Safetensors files: a check before they are opened, a writer that leaves no half of one, and a digest of their tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from stylert.core.errors import OutputError, StylertError
from stylert.core.files.atomic import atomic_file
from stylert.core.files.inputs import open_file

#: Size of a file. A training snapshot at 1024 px has about 1 GB.
MAX_FILE_BYTES = 8 * 2**30
#: Size of the header of a file. A training snapshot at 1024 px needs about 200 kB.
MAX_HEADER_BYTES = 16 * 2**20


def check_header(path: str | Path, error: type[StylertError], kind: str, max_bytes: int = MAX_FILE_BYTES) -> None:
    """Check that a safetensors file is a regular file with a header of usual length. The library parses the header whole.

    Args:
        path: The file.
        error: Class of the error that refuses it.
        kind: First word of the messages.
        max_bytes: Size of the file that is allowed.
    """
    with open_file(path, error, max_bytes, kind) as file:
        start = file.read(8)
    if int.from_bytes(start, "little") > MAX_HEADER_BYTES:
        raise error(f"{kind} {path} is not a whole safetensors file: its header is too long")


@contextmanager
def safetensors_file(path: str | Path, within: Path | None = None) -> Iterator[Path]:
    """As `atomic_file`, for `save_file` of safetensors, which writes beside the path that it is given, and renames.

    Raises:
        OutputError: The file cannot be written. A full disk is no OSError in safetensors.
    """
    with atomic_file(path, within, by_library=True) as temporary:
        try:
            yield temporary
        except SafetensorError as e:
            raise OutputError(f"cannot write {path}: {str(e).removeprefix('Error while serializing: ')}") from None


def digest(tensors: Mapping[str, np.ndarray]) -> str:
    """sha256 over the names and bytes of tensors. safetensors itself does not notice a changed weight."""
    h = hashlib.sha256()
    for name in sorted(tensors):
        h.update(name.encode() + b"\0")
        h.update(np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data)
    return h.hexdigest()
