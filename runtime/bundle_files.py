"""The files that a bundle lists: their names, their bytes, and what the manifest says of the networks among them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stylert.core.errors import BundleError, InputError, shown
from stylert.core.files.digests import check_sha256, sha256_of

#: Suffix of every network. ONNX Runtime chooses its reader by the suffix.
NETWORK_SUFFIX = ".onnx"
#: Bytes of a file: protobuf, and so ONNX, has no larger ones. A file of holes can have any size, and takes its time to be hashed.
MAX_FILE_BYTES = 2**31 - 1


@dataclass(frozen=True)
class FileEntry:
    """Hash and size of one file of the bundle."""

    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        check_sha256(self.sha256)
        if not 0 <= self.bytes <= MAX_FILE_BYTES:
            raise ValueError(f"a file of a bundle cannot have {self.bytes} bytes")


@dataclass(frozen=True)
class PrecisionEntry:
    """The synthesis network of one precision.

    Attributes:
        file: The canonical file, for every backend.
        min_psnr_db: The least PSNR against PyTorch's float32 images that the bundle promises, dB.
        recipe: How export made the network, for people.
        accuracy: Measured accuracy by backend, for people.
        plans: By backend, the file of the same network in the form that suits it. `<backend>-no-vnni` is the file for
            processors whose products of bytes saturate.
    """

    file: str
    min_psnr_db: float
    recipe: dict[str, Any] = field(default_factory=dict)
    accuracy: dict[str, Any] = field(default_factory=dict)
    plans: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for file in self.files:
            if not check_plain_name(file).endswith(NETWORK_SUFFIX):
                raise ValueError(f"{file!r} is not the name of an ONNX file")
        for backend in self.plans:
            check_word(backend)

    @property
    def files(self) -> list[str]:
        return [self.file, *self.plans.values()]


@dataclass(frozen=True)
class EncoderEntry:
    """The encoder network of one precision: pictures to latents (`steering.picture_encoder`).

    Attributes:
        file: The ONNX file.
        recipe: How the encoder was trained and exported, for people.
        accuracy: Measured accuracy, for people.
    """

    file: str
    recipe: dict[str, Any] = field(default_factory=dict)
    accuracy: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not check_plain_name(self.file).endswith(NETWORK_SUFFIX):
            raise ValueError(f"{self.file!r} is not the name of an ONNX file")


class WithPrecisions:
    """A bundle with a network for each precision.

    Attributes:
        path: The folder.
        precisions: The network of each precision.
    """

    path: Path
    precisions: dict[str, PrecisionEntry]

    @property
    def default_precision(self) -> str:
        """The precision of those who name none: fp32, or the first that there is."""
        return "fp32" if "fp32" in self.precisions else next(iter(self.precisions))

    def precision(self, name: str) -> PrecisionEntry:
        """The entry of a precision. Raises InputError if the bundle does not have it."""
        if not isinstance(name, str) or name not in self.precisions:
            raise InputError(f"bundle {self.path} has no {shown(name)} network, only: {', '.join(self.precisions)}")
        return self.precisions[name]


def file_entries(folder: Path, names: list[str]) -> dict[str, FileEntry]:
    """The entries of files in a folder, by name."""
    return {name: FileEntry(sha256_of(folder / name), (folder / name).stat().st_size) for name in names}


def check_file(path: Path, entry: FileEntry, manifest: str) -> Path:
    """The path itself, after comparing the file's bytes with those that the `manifest` lists.

    Raises:
        BundleError: The file is missing or cannot be read, or its bytes are others.
    """
    if not path.is_file():
        raise BundleError(f"bundle file {path} is missing; export the bundle again")
    size = path.stat().st_size
    if size != entry.bytes:
        raise BundleError(f"bundle file {path} has {size} bytes, the manifest says {entry.bytes}; export the bundle again")
    if sha256_of(path, BundleError, "bundle file") != entry.sha256:
        raise BundleError(f"bundle file {path} does not match its sha256 in {manifest}; export the bundle again")
    return path


def check_plain_name(name: str) -> str:
    """The name itself, if it is a file name without a folder. Raises ValueError otherwise."""
    if not re.fullmatch(r"[\w.+ -]{1,200}", name) or name in (".", "..") or not name.isprintable():
        raise ValueError(f"{shown(name)} is not a plain file name")
    return name


def check_word(text: str) -> None:
    """Raise ValueError unless a name in the manifest is short and of plain characters."""
    if not re.fullmatch(r"[a-z0-9_-]{1,40}", text):
        raise ValueError(f"{shown(text)} is not a name")
