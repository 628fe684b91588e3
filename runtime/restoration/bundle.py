"""The bundle of a restoration network: a folder with one ONNX file for each precision, and the manifest `restorer.json`.

Every file maps `photo`, uint8 `[N, R, R, 3]`, to `image`, uint8 `[N, R, R, 3]`. A backend may have a file of its own.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stylert.core.errors import BundleError, as_path, shown
from stylert.core.files.atomic import atomic_file
from stylert.core.files.digests import sha256_of
from stylert.core.files.inputs import read_file
from stylert.core.files.json_documents import MAX_BYTES, read_document, read_part
from stylert.runtime.bundle import check_utf8
from stylert.runtime.bundle_files import FileEntry, PrecisionEntry, WithPrecisions, check_file, check_plain_name, check_word
from stylert.runtime.session import TensorSpec

#: Version of the manifest.
SCHEMA_VERSION = 1
MANIFEST = "restorer.json"
#: The kinds of network, with their names for people.
TITLES = {"gfpgan": "GFP-GAN", "gpen": "GPEN"}
#: Least and greatest side of a photograph, in pixels.
MIN_RESOLUTION, MAX_RESOLUTION = 8, 2048
#: Names of the input and of the output of every network.
PHOTO, IMAGE = "photo", "image"


@dataclass(frozen=True)
class RestorerBundle(WithPrecisions):
    """The content of `restorer.json`, and the folder that it is in.

    Attributes:
        path: The folder.
        network: A key of `TITLES`.
        resolution: Side of photographs and images, in pixels.
        files: Every file of the bundle but the manifest.
        precisions: The network of each precision.
        provenance: The origin of the bundle: checkpoint, version, notes of its reader.
    """

    path: Path
    network: str
    resolution: int
    files: dict[str, FileEntry]
    precisions: dict[str, PrecisionEntry]
    provenance: dict[str, Any]

    @property
    def title(self) -> str:
        """The kind of its network, for people."""
        return TITLES[self.network]

    @property
    def tensors(self) -> list[TensorSpec]:
        """The input and the output of every network."""
        shape = (self.resolution, self.resolution, 3)
        return [TensorSpec(name, name == PHOTO, np.dtype(np.uint8), shape) for name in (PHOTO, IMAGE)]

    @property
    def sha256(self) -> str:
        """The sha256 of the manifest, by which restored pictures name the bundle."""
        return sha256_of(self.path / MANIFEST)

    def checked_file(self, precision: str, backend: str) -> Path:
        """The file that a backend runs, after comparing its bytes with the manifest.

        Raises:
            InputError: The bundle lacks the precision.
            BundleError: The file is missing, or its bytes are others.
        """
        entry = self.precision(precision)
        name = entry.plans.get(backend, entry.file)
        return check_file(self.path / name, self.files[name], MANIFEST)

    @classmethod
    def load(cls, path: str | Path) -> RestorerBundle:
        """Read and check `restorer.json`. The bytes of the other files are checked when they are used.

        Raises:
            BundleError: The folder or the manifest is missing, damaged or of another schema.
        """
        path = as_path(path, "bundle")
        check_utf8(path)
        name = str(path / MANIFEST)
        if not (path / MANIFEST).is_file():
            raise BundleError(
                f"{path} is no bundle of a restorer; make one with: stylert restorer export MODEL.pth --out {path}"
            )
        content = read_document(
            read_file(path / MANIFEST, BundleError, MAX_BYTES, "manifest"), dict[str, Any], name, BundleError
        )
        if (schema := content.get("schema")) != SCHEMA_VERSION:
            raise BundleError(f"{name} has schema {shown(schema)}; this stylert reads schema {SCHEMA_VERSION}")
        manifest = read_part(content, _Manifest, name, BundleError)
        return cls(path, manifest.network, manifest.resolution, manifest.files, manifest.precisions, manifest.provenance)

    def save(self) -> None:
        """Write `restorer.json`, atomically. The same content gives the same bytes."""
        data = {
            "schema": SCHEMA_VERSION,
            "network": self.network,
            "resolution": self.resolution,
            "files": {name: asdict(entry) for name, entry in sorted(self.files.items())},
            "precisions": {name: asdict(entry) for name, entry in self.precisions.items()},
            "provenance": self.provenance,
        }
        with atomic_file(self.path / MANIFEST, within=self.path) as temporary:
            temporary.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class _Manifest:
    """The content of `restorer.json`."""

    schema: int
    network: str
    resolution: int
    files: dict[str, FileEntry]
    precisions: dict[str, PrecisionEntry]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.network not in TITLES:
            raise ValueError(f"network is one of {', '.join(TITLES)}, not {shown(self.network)}")
        if not MIN_RESOLUTION <= self.resolution <= MAX_RESOLUTION or self.resolution.bit_count() != 1:
            raise ValueError(f"resolution is a power of two from {MIN_RESOLUTION} to {MAX_RESOLUTION}, not {self.resolution}")
        for name in self.files:
            check_plain_name(name)
        if not self.precisions:
            raise ValueError("it has no precision")
        for name in self.precisions:
            check_word(name)
        needed = {file for entry in self.precisions.values() for file in entry.files}
        if unlisted := needed - set(self.files):
            raise ValueError(f"{min(unlisted)} is not listed under files")
