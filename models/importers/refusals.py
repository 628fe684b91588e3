"""The errors of reading a foreign checkpoint, under the name of its file."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stylert.core.errors import CheckpointError, OutOfMemory
from stylert.models.importers.errors import FormatError

#: Errors that damaged data can raise in Python or NumPy. The readers check first, so this is a second line of defence.
DAMAGE_ERRORS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)


@contextmanager
def refusals_of(path: Path) -> Iterator[None]:
    """Turn the errors of a block that reads `path` into one line with its name.

    Raises:
        CheckpointError: The file is refused, damaged, or cannot be read.
        OutOfMemory: There is too little memory for its networks.
    """
    try:
        yield
    except FormatError as e:
        raise CheckpointError(f"cannot import {path}: {e}") from None
    except OSError as e:
        raise CheckpointError(f"cannot import {path}: {e.strerror or e}") from None
    except MemoryError:
        raise OutOfMemory(f"cannot import {path}: not enough memory") from None
    except DAMAGE_ERRORS as e:
        raise CheckpointError(f"cannot import {path}: it is damaged ({type(e).__name__})") from None
