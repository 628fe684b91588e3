"""CIFAR-10 and CIFAR-100 in their Python version: a tar archive of pickles. Nothing is unpickled.

Python 2 wrote these pickles: dictionaries of strings, lists of numbers, and one NumPy array of bytes. `PickleReader`
turns them into inert records. The length of the array's bytes gives its shape.
"""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stylert.core.errors import CheckpointError, DataError
from stylert.core.images.pictures import one_line_message
from stylert.models.importers.budget import Budget
from stylert.models.importers.errors import FormatError
from stylert.models.importers.pickle_reader import OPERATIONS, PickleReader
from stylert.train.data.sources.packed import read_unpacked
from stylert.train.data.sources.picture import Picture, Source, check_count

#: Names of the training batches, each with the key of its labels.
BATCHES = {f"data_batch_{i}": "labels" for i in range(1, 6)} | {"train": "fine_labels"}
MAX_UNPACKED = 192 * 2**20  # CIFAR-10 and CIFAR-100 have 178 MiB each
MAX_MEMBERS = 1000
MAX_CLASSES = 100
SIDE = 32
BYTES_PER_PICTURE = 3 * SIDE * SIDE


class Record:
    """Stands for an array or a type in a pickle. The array is never created; only the bytes of its state are used."""

    state: object = None

    def set_state(self, state: object) -> None:
        """Keep the state that the pickle gives to this object."""
        self.state = state


def is_cifar(path: Path) -> bool:
    """Whether the name is that of a Python version, such as cifar-10-python.tar.gz."""
    return path.name.startswith("cifar-1") and path.name.endswith((".tar.gz", ".tgz", ".tar"))


def cifar(path: Path) -> Source:
    """The training pictures of all batches in the archive; 50,000 in the original one.

    Raises:
        DataError: The archive is damaged or holds something else.
    """
    unpacked = io.BytesIO(read_unpacked(path, MAX_UNPACKED))
    try:
        with tarfile.open(fileobj=unpacked, mode="r:") as archive:
            batches = sorted(_batches(path, archive), key=lambda batch: batch[0])
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, RecursionError) as e:
        raise DataError(f"{path} cannot be read: {one_line_message(e)}") from None
    except CheckpointError as e:
        raise DataError(f"{path} holds no batches of CIFAR: {e}") from None
    check_count(path, sum(len(labels) for _, _, labels in batches))
    images = np.concatenate([batch_images for _, batch_images, _ in batches])
    labels = [label for _, _, batch_labels in batches for label in batch_labels]

    def picture(i: int) -> Picture:
        return Picture(f"{path.name}[{i}]", lambda: images[i], labels[i])

    def pictures() -> Iterator[Picture]:
        return map(picture, range(len(images)))

    return Source(len(images), pictures)


def _batches(path: Path, archive: tarfile.TarFile) -> Iterator[tuple[str, np.ndarray, list[int]]]:
    """Name, images `[N, 32, 32, 3]` and labels of every training batch in the archive."""
    for number, member in enumerate(archive):
        # A negative size would lead back to an earlier member. A sparse member has holes, so it is larger than its part of the archive.
        if number == MAX_MEMBERS or not 0 <= member.size <= MAX_UNPACKED or member.issparse():
            raise DataError(
                f"{path} is no archive of CIFAR: it has over {MAX_MEMBERS} files, or one of {member.size} bytes or with holes"
            )
        name = member.name.rpartition("/")[2]
        if name not in BATCHES or not member.isreg():
            continue
        file = archive.extractfile(member)
        assert file is not None, "it is a regular file"
        yield name, *_read_batch(file.read(), BATCHES[name])


def _read_batch(data: bytes, label_key: str) -> tuple[np.ndarray, list[int]]:
    """Images `[N, 32, 32, 3]` and labels of one pickled batch. Raises FormatError for any other content."""
    constructors: dict[tuple[str, str], Any] = {
        ("numpy.core.multiarray", "_reconstruct"): lambda arguments: Record(),
        ("numpy._core.multiarray", "_reconstruct"): lambda arguments: Record(),
        ("numpy", "dtype"): lambda arguments: Record(),
        ("numpy", "ndarray"): None,  # named in the pickle as the type to build, never called
        ("_codecs", "encode"): _encoded,
    }
    value, _ = PickleReader(memoryview(data), constructors, Budget(len(data)), operations=OPERATIONS_OF_PYTHON_2).read()
    if not isinstance(value, Mapping):
        raise FormatError("a batch is no dictionary")
    array, labels = value.get("data"), value.get(label_key)
    state = array.state if isinstance(array, Record) else None
    raw = _as_bytes(state[-1]) if isinstance(state, tuple) and state else None
    if raw is None or not isinstance(labels, list) or len(raw) != len(labels) * BYTES_PER_PICTURE:
        raise FormatError(f"a batch has no array of as many pictures as {label_key}")
    if not all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v < MAX_CLASSES for v in labels):
        raise FormatError(f"{label_key} holds values that are no class index")
    return np.frombuffer(raw, np.uint8).reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1), labels


def _encoded(arguments: tuple[Any, ...]) -> str:
    """The text in a call of `_codecs.encode`: Python 3 writes bytes like this in protocol 2."""
    if not arguments or not isinstance(arguments[0], str):
        raise FormatError("its pickle encodes an object that is not a string")
    return arguments[0]


def _as_bytes(value: object) -> bytes | None:
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, str):
        try:
            return value.encode("latin-1")
        except UnicodeEncodeError:
            return None
    return None


#: The opcodes of checkpoints, and those of Python 2's byte strings, which no checkpoint uses.
OPERATIONS_OF_PYTHON_2 = OPERATIONS | {
    pickle.SHORT_BINSTRING[0]: lambda r: r.stack.append(r.read_text(r.read_number("<B"), "latin-1")),
    pickle.BINSTRING[0]: lambda r: r.stack.append(r.read_text(r.read_number("<I"), "latin-1")),
}
