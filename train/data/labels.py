"""The labels of a dataset, from `dataset.json`: `{"labels": [[name, class index or vector], ...]}`, or null for none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

import msgspec
import numpy as np

from stylert.core.errors import DataError, shown_name
from stylert.core.files.json_documents import read_document
from stylert.train.data.image_files import ImageFiles, path_in_archive

LABELS_FILE = "dataset.json"
MAX_CLASSES = 65536
MAX_FLOAT32 = float(np.finfo(np.float32).max)
#: Bytes of `dataset.json`, at most: for any dataset, and for each file where there are over a million. A row of a class has about 40.
#: The list of a zip's files takes more bytes for each, so no zip of a few MiB has a document of hundreds.
MAX_BYTES, BYTES_PER_FILE = 64 * 2**20, 64
#: Rows for pictures that are not there, at most.
MAX_FOREIGN_ROWS = 2**20


@dataclass(frozen=True)
class LabelsDocument:
    """The content of `dataset.json`. Each label stays text until its row is checked."""

    labels: list[tuple[str, msgspec.Raw]] | None


def read_labels(files: ImageFiles, images: list[str]) -> np.ndarray | None:
    """The labels of some pictures.

    Args:
        files: The dataset.
        images: Names of the pictures.

    Returns:
        Class indices int64 `[M]` or vectors float64 `[M, c_dim]`. None if the dataset has no labels.

    Raises:
        DataError: `dataset.json` is damaged, a picture has no label or two, or labels are not all of one kind.
    """
    path = files.find(LABELS_FILE)
    if path is None:
        return None
    subject = f"dataset {files.source}: {path}"
    limit = max(MAX_BYTES, BYTES_PER_FILE * len(files.names))
    data = files.read_document(path, limit)
    document = read_document(data, LabelsDocument, subject, DataError, limit, 2 * (len(files.names) + MAX_FOREIGN_ROWS))
    if document.labels is None:
        return None
    folder = PurePosixPath(path).parent
    label_of: dict[str, msgspec.Raw] = {}
    for written, label in document.labels:
        name = (folder / path_in_archive(written)).as_posix()
        if name in label_of:
            raise DataError(f"{subject} has two labels for {shown_name(name)}")
        label_of[name] = label
    if missing := [n for n in images if n not in label_of]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"{subject} has no labels for {shown_name(missing[0])}{more}")
    return _array([label_of[n] for n in images], images, subject)


def _array(labels: list[msgspec.Raw], images: list[str], subject: str) -> np.ndarray:
    """Labels of one kind as an array."""
    decoder = msgspec.json.Decoder(int | list[float])
    result: np.ndarray | None = None
    for i, (label, name) in enumerate(zip(labels, images, strict=True)):
        try:
            value = decoder.decode(label)
        except (ValueError, OverflowError):
            raise _refusal(subject, name) from None
        is_class = isinstance(value, int)
        if result is None:
            length = 0 if isinstance(value, int) else len(value)
            result = np.empty(len(labels), np.int64) if is_class else np.empty((len(labels), length))
        if is_class != (result.ndim == 1):
            raise DataError(f"{subject}: the labels of {shown_name(images[0])} and {shown_name(name)} are of two kinds")
        if isinstance(value, int):
            if not 0 <= value < MAX_CLASSES:
                raise _refusal(subject, name)
        elif len(value) != result.shape[1] or not 0 < len(value) <= MAX_CLASSES or not _fits_float32(value):
            raise _refusal(subject, name)
        result[i] = value
    assert result is not None, "a dataset has pictures"
    return result


def _fits_float32(values: list[float]) -> bool:
    return max(map(abs, values)) <= MAX_FLOAT32


def _refusal(subject: str, name: str) -> DataError:
    return DataError(
        f"{subject}: the labels must be class indices from 0 to {MAX_CLASSES - 1}, or vectors of one length; "
        f"that of {shown_name(name)} is not"
    )
