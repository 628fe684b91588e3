"""Arrays in NumPy's own files, read from bytes without trust: no pickle, and no more memory than the bytes need."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from stylert.core.errors import StylertError, shown_line
from stylert.core.files.atomic import atomic_file
from stylert.core.files.outputs import ZIP_COMMENT

#: Dimensions of an array, at most.
MAX_DIMENSIONS = 4
#: Kinds of numbers that are read: floats, and signed and unsigned whole numbers.
NUMBERS = "fiu"
#: Every array in an archive gets this date, so that the bytes depend on the arrays alone.
DATE = (1980, 1, 1, 0, 0, 0)


def read_npy(data: bytes, name: str, error: type[StylertError]) -> np.ndarray:
    """The array in the bytes of a `.npy` file, without a copy.

    Args:
        data: Content of the file.
        name: Subject of the messages.
        error: Class of the error that refuses the file.

    Raises:
        StylertError: An `error` with one line: the file is damaged, or holds something else than numbers.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise ValueError(f"it has version {version[0]}.{version[1]} of the format")
        if dtype.kind not in NUMBERS or dtype.names is not None or not 1 <= len(shape) <= MAX_DIMENSIONS:
            raise ValueError(f"it holds {dtype} {list(shape)}, and numbers in 1 to {MAX_DIMENSIONS} dimensions are read")
        rest = len(data) - file.tell()
        if min(shape) < 0 or math.prod(shape) * dtype.itemsize != rest:
            raise ValueError(f"its header says {dtype} {list(shape)}, and {rest} bytes follow")
        values = np.frombuffer(data, dtype, offset=file.tell())
        return values.reshape(shape, order="F" if fortran else "C")
    except Exception as e:  # NumPy's reader of headers raises many types, that of a tokenizer among them
        raise error(f"{name} is no array that can be read: {shown_line(str(e))}") from None


def npy_bytes(array: np.ndarray) -> bytes:
    """The bytes of a `.npy` file, the same for the same array."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array, order="C"), allow_pickle=False)
    return file.getvalue()


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name as a `.npz` file, whole or not at all, with the mark of stylert. The same arrays give the same bytes.

    Raises:
        OutputError: The file cannot be written.
    """
    with atomic_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", DATE), npy_bytes(array))
        archive.comment = ZIP_COMMENT
