"""Latents in a safetensors file: ws of pictures that `stylert project` found, with their network as JSON in the metadata."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stylert.core.errors import BundleError, InputError, shown, shown_line
from stylert.core.files.digests import check_sha256
from stylert.core.files.safetensors_files import digest
from stylert.core.ranges import check_ranges
from stylert.runtime.bundle import Bundle
from stylert.runtime.input_checks import finite_number
from stylert.runtime.steering.tensor_files import TensorFile, as_float32

#: Name of the only tensor
TENSOR = "ws"
FORMAT_VERSION = 1
MAX_PICTURES = 10_000
#: A name is also that of a file. It begins with a letter or digit.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
#: Least and greatest value of the sizes of a network, in a file of latents
RANGES = {"num_ws": (1, 1024), "w_dim": (1, 65_536)}


@dataclass(frozen=True)
class Latents:
    """The latents of pictures, for one network.

    Attributes:
        network: sha256 of the checkpoint file, which a bundle names as its origin.
        ws: float32 `[N, num_ws, w_dim]`.
        names: The name of each picture, which no other picture in the file has.
        facts: How they were found, for people.
        sha256: The hash of the file; empty for latents that were not read from one.
    """

    network: str
    ws: np.ndarray
    names: tuple[str, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.names)

    def check_network(self, bundle: Bundle) -> None:
        """Raise BundleError unless the bundle was exported from the network of these latents."""
        origin = bundle.provenance.get("checkpoint_sha256")
        if origin != self.network or self.ws.shape[1:] != (bundle.num_ws, bundle.model["w_dim"]):
            raise BundleError(
                f"these latents belong to the network {self.network[:12]}, and bundle {bundle.path} to "
                f"{shown_line(str(origin), 12)}: project the pictures into its own checkpoint"
            )

    def name(self, number: int) -> str:
        """The name of a picture by number, from 0 on. Raises InputError for a number that the file does not have."""
        if not 0 <= number < len(self):
            last = len(self) - 1
            raise InputError(
                f"the file of latents has {'the picture 0' if not last else f'the pictures 0 to {last}'}, not {number}"
            )
        return self.names[number]

    def rows(self, numbers: Sequence[int]) -> np.ndarray:
        """The ws `[N, num_ws, w_dim]` of pictures by number, as `name`."""
        for number in numbers:
            self.name(number)
        return self.ws[list(numbers)]


def truncated(ws: np.ndarray, w_avg: np.ndarray, psi: float, cutoff: int | None) -> np.ndarray:
    """ws `[N, num_ws, w_dim]` moved towards the average w `[w_dim]`, as the mapping network truncates them."""
    psi = finite_number(psi, "psi")
    if psi == 1:
        return ws
    moved: np.ndarray = ws.copy()
    moved[:, :cutoff] = w_avg + np.float32(psi) * (moved[:, :cutoff] - w_avg)
    return moved


def write_latents(path: str | Path, latents: Latents) -> None:
    """Write latents to a file, whole or not at all. The same latents give the same bytes.

    Raises:
        InputError: There are none or too many, or a name or a number is not valid.
        OutputError: The file cannot be written.
    """
    path = FILE.path(path)
    if not isinstance(latents, Latents):
        raise InputError(f"these are no Latents: {shown(latents)}")
    try:
        ws = as_float32(latents.ws)
        _check_ws(ws, len(latents.names))
        document = _Document(
            kind="latents",
            version=FORMAT_VERSION,
            network=latents.network,
            num_ws=ws.shape[1],
            w_dim=ws.shape[2],
            sha256=digest({TENSOR: ws}),
            names=tuple(latents.names),
            facts=dict(latents.facts),
        )
    except (ValueError, TypeError) as e:
        raise InputError(f"these latents cannot be written: {shown_line(str(e))}") from None
    FILE.write(path, document, {TENSOR: ws})


def read_latents(path: str | Path) -> Latents:
    """Read latents, checked.

    Raises:
        InputError: The file is missing, damaged, or holds no latents.
    """
    document, tensors, file_hash = FILE.read(FILE.path(path))
    return Latents(document.network, tensors[TENSOR], document.names, document.facts, file_hash)


@dataclass(frozen=True)
class _Document:
    """The JSON document. `kind` comes first: it is the mark by which stylert knows the file (`core.files.outputs`)."""

    kind: Literal["latents"]
    version: int
    network: str
    num_ws: int
    w_dim: int
    sha256: str
    names: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.version != FORMAT_VERSION:
            raise ValueError(f"it has format version {self.version}; this stylert reads {FORMAT_VERSION}")
        check_sha256(self.network)
        check_ranges(self, RANGES)
        if not 1 <= len(self.names) <= MAX_PICTURES:
            raise ValueError(f"a file has the latents of 1 to {MAX_PICTURES} pictures, not {len(self.names)}")
        for name in self.names:
            if NAME.fullmatch(name) is None:
                raise ValueError(
                    f"a picture has a name of up to 100 letters, digits, dots, hyphens and underscores, not {shown(name)}"
                )
        if len(set(self.names)) != len(self.names):
            raise ValueError("two pictures have the same name")


def _check(document: _Document, tensors: Mapping[str, np.ndarray]) -> None:
    ws = tensors[TENSOR]
    _check_ws(ws, len(document.names))
    if ws.shape[1:] != (document.num_ws, document.w_dim):
        raise ValueError(f"its latents are {list(ws.shape[1:])}, not [{document.num_ws}, {document.w_dim}]")


def _check_ws(ws: np.ndarray, count: int) -> None:
    """Raise ValueError unless this is float32 `[count, num_ws, w_dim]` and finite."""
    if ws.dtype != np.float32 or ws.ndim != 3 or len(ws) != count:
        raise ValueError(
            f"the latents of {count} pictures are float32 [{count}, num_ws, w_dim], not {ws.dtype} {list(ws.shape)}"
        )
    if not np.isfinite(ws).all():
        raise ValueError("latents hold values that are not finite")


FILE = TensorFile("latents", "stylert project", _Document, lambda document: (TENSOR,), _check)
