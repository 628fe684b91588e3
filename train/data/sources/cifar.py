"""CIFAR-10 and CIFAR-100 in their Python version, an archive of pickles. They are read without unpickling anything.

The pickles were written by Python 2: dictionaries of strings, lists of numbers, and one NumPy array of bytes. The project's
pickle interpreter makes inert records of them; what the array is comes from its length.
"""

from __future__ import annotations

import lzma
import pickle
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stylert.core.errors import CheckpointError, DataError
from stylert.models.importers.pickle_reader import OPERATIONS, OpcodeBudget, PickleReader
from stylert.models.importers.refusal import Refused
from stylert.train.data.sources.picture import Picture, Source, check_count, one_line

#: Names of the training batches, and the key of their labels.
BATCHES = {f"data_batch_{i}": "labels" for i in range(1, 6)} | {"train": "fine_labels"}
MAX_MEMBER = 200 * 2**20  # CIFAR-100's single batch has 148 MiB
MAX_TOTAL = 2**30
PIXELS = 3 * 32 * 32


class Record:
    """What a pickle builds: an array or its type, never made; the bytes of its state are all that counts."""

    state: object = None

    def set_state(self, state: object) -> None:
        self.state = state


def is_cifar(path: Path) -> bool:
    """Whether the name is that of a Python version, such as cifar-10-python.tar.gz."""
    return path.name.startswith("cifar-1") and path.name.endswith((".tar.gz", ".tgz", ".tar"))


def cifar(path: Path) -> Source:
    """The 50,000 training pictures, or as many as the archive's batches hold. Raises DataError on any other content."""
    images: list[tuple[str, np.ndarray, list[int]]] = []
    total = 0
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                total += member.size
                if total > MAX_TOTAL:
                    raise DataError(f"{path} unpacks to over {MAX_TOTAL // 2**20} MiB, more than any CIFAR")
                name = member.name.rpartition("/")[2]
                if name not in BATCHES or not member.isfile():
                    continue
                if member.size > MAX_MEMBER:
                    raise DataError(f"{path}: {name} has {member.size / 2**20:.0f} MiB, more than any batch of CIFAR")
                file = archive.extractfile(member)
                assert file is not None, "it is a regular file"
                batch = _batch(file.read(MAX_MEMBER), BATCHES[name])
                images.append((name, *batch))
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as e:
        raise DataError(f"{path} cannot be read: {one_line(e)}") from None
    except CheckpointError as e:
        raise DataError(f"{path} holds no batches of CIFAR: {e}") from None
    images.sort(key=lambda batch: batch[0])
    pixels = np.concatenate([b[1] for b in images]) if images else np.empty((0, 32, 32, 3), np.uint8)
    labels = [label for b in images for label in b[2]]
    check_count(path, len(pixels))

    def pictures() -> Iterator[Picture]:
        for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            yield Picture(f"{path.name}[{i}]", lambda image=image: image, label)  # type: ignore[misc]

    return Source(len(pixels), pictures)


def _batch(data: bytes, key: str) -> tuple[np.ndarray, list[int]]:
    made: dict[tuple[str, str], Any] = {
        (module, name): lambda arguments: Record()
        for module, name in (
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "dtype"),
        )
    }
    made[("numpy", "ndarray")] = None  # mentioned as the type to build
    made[("_codecs", "encode")] = lambda arguments: arguments[0]  # how Python 3 writes bytes in protocol 2
    value, _ = PickleReader(memoryview(data), made, OpcodeBudget(), operations=OPERATIONS_OF_PYTHON_2).read()
    if not isinstance(value, Mapping):
        raise Refused("a batch is no dictionary")
    array, labels = value.get("data"), value.get(key)
    state = array.state if isinstance(array, Record) else None
    raw = _as_bytes(state[-1]) if isinstance(state, tuple) and state else None
    if raw is None or not isinstance(labels, list) or len(raw) != len(labels) * PIXELS:
        raise Refused(f"a batch has no array of as many pictures as {key}")
    if not all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 100 for v in labels):
        raise Refused(f"{key} holds what is no class")
    return np.frombuffer(raw, np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def _as_bytes(value: object) -> bytes | None:
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, str):
        try:
            return value.encode("latin-1")
        except UnicodeEncodeError:
            return None
    return None


#: Python 2's byte strings, which no checkpoint has, beside what checkpoints have.
OPERATIONS_OF_PYTHON_2 = OPERATIONS | {
    pickle.SHORT_BINSTRING[0]: lambda r: r.stack.append(str(r._bytes(r._number("<B")), "latin-1")),
    pickle.BINSTRING[0]: lambda r: r.stack.append(str(r._bytes(r._number("<I")), "latin-1")),
}
