"""Safetensors files of float32 tensors that a JSON document in the metadata describes: the form of directions and of latents.

The document has the fields `kind`, by which stylert knows its own files (`core.files.outputs`), and `sha256`, the digest of the
tensors: safetensors itself does not notice a changed number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from stylert.core.errors import InputError, as_path, shown, shown_line
from stylert.core.files.digests import sha256_of
from stylert.core.files.json_documents import read_document
from stylert.core.files.safetensors_files import check_header, digest, safetensors_file

#: Key of the JSON document in the metadata of the file
METADATA_KEY = "stylert"
#: Size of a file. 1,000 directions in the styles of config F at 1024 px have 36 MB, latents of 10,000 pictures 369 MB.
MAX_FILE_BYTES = 512 * 2**20


class Document(Protocol):
    """A dataclass that describes the tensors of a file."""

    @property
    def sha256(self) -> str: ...


D = TypeVar("D", bound=Document)


@dataclass(frozen=True)
class TensorFile(Generic[D]):
    """One kind of these files.

    Attributes:
        kind: The field `kind` of its document, and what the file holds, for messages.
        writer: The command that writes such files, for messages.
        document: The class of its document.
        names: The names of the tensors that a document describes.
        check: Raises ValueError for tensors that do not fit their document.
    """

    kind: str
    writer: str
    document: type[D]
    names: Callable[[D], Collection[str]]
    check: Callable[[D, Mapping[str, np.ndarray]], None]

    def path(self, path: object) -> Path:
        """The path that a user gave. Raises InputError for anything else."""
        return as_path(path, f"file of {self.kind}")

    def write(self, path: Path, document: D, tensors: Mapping[str, np.ndarray]) -> None:
        """Write a file, whole or not at all. The same tensors and the same document give the same bytes.

        Raises:
            InputError: The document could not be read again, or the tensors do not fit it.
            OutputError: The file cannot be written.
        """
        try:
            self.check(document, tensors)
            text = json.dumps(asdict(document), allow_nan=False, default=_python_number)  # type: ignore[call-overload]
        except (ValueError, TypeError) as e:
            raise InputError(f"these {self.kind} cannot be written: {shown_line(str(e))}") from None
        read_document(text, self.document, f"the description of these {self.kind}", InputError)
        with safetensors_file(path) as temporary:
            save_file(dict(tensors), temporary, {METADATA_KEY: text})

    def read(self, path: Path) -> tuple[D, dict[str, np.ndarray], str]:
        """Read a file: its document, its tensors by name, and the hash of the file.

        Raises:
            InputError: The file is missing or damaged, or is of another kind.
        """
        name = f"file of {self.kind} {path}"
        check_header(path, InputError, f"file of {self.kind}", MAX_FILE_BYTES)
        file_hash = sha256_of(path)
        try:
            with safe_open(path, framework="numpy") as file:
                document = self._document(file, name)
                if sorted(file.keys()) != sorted(self.names(document)):
                    raise InputError(f"{name} is damaged: its tensors are not those of its metadata")
                for key in file.keys():  # noqa: SIM118 - it is no mapping
                    if (dtype := file.get_slice(key).get_dtype()) != "F32":  # NumPy lacks some types of safetensors
                        raise InputError(f"{name} is damaged: {shown(key)} is {dtype}, not F32")
                tensors = {key: file.get_tensor(key) for key in self.names(document)}
        except (SafetensorError, OSError, TypeError) as e:
            raise InputError(f"{name} is not a whole safetensors file: {shown_line(str(e))}") from None
        try:
            self.check(document, tensors)
        except ValueError as e:
            raise InputError(f"{name} is damaged: {e}") from None
        if digest(tensors) != document.sha256:
            raise InputError(f"{name} was changed or damaged: its tensors do not match their sha256")
        return document, tensors, file_hash

    def _document(self, file: Any, name: str) -> D:
        text = (file.metadata() or {}).get(METADATA_KEY, "")
        if f'"kind": "{self.kind}"' not in text:
            raise InputError(f"{name} holds no {self.kind}; `{self.writer}` writes such files")
        return read_document(text, self.document, f"{name}: its metadata", InputError)


def as_float32(values: Any) -> np.ndarray:
    """An array of float32. Numbers that are too large for it become infinite, without a warning. Raises ValueError for others."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, np.float32)


def _python_number(value: object) -> object:
    """A number of NumPy as one of Python. Raises TypeError for anything else."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{shown(value)} is no number")
