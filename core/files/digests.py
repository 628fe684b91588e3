"""The sha256 of files."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from stylert.core.errors import InputError, StylertError, shown
from stylert.core.files.inputs import open_file

#: Size of a file that is hashed. It is read in parts, so this is no question of memory.
MAX_FILE_BYTES = 2**63 - 1


def sha256_of(path: str | Path, error: type[StylertError] = InputError, kind: str = "file") -> str:
    """The sha256 of the bytes of a regular file, in hexadecimal.

    Args:
        path: The file, or a link to it.
        error: Class of the error that refuses it.
        kind: First word of the messages.

    Raises:
        StylertError: An `error` with one line: the file is missing, not a regular file, or not readable.
    """
    with open_file(path, error, MAX_FILE_BYTES, kind) as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as e:
            raise error(f"{kind} {path} cannot be read: {e.strerror or e}") from None


def check_sha256(digest: str) -> None:
    """Raise ValueError unless this is a sha256 in hexadecimal digits."""
    if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ValueError(f"{shown(digest)} is not a sha256")
