"""Latents in a safetensors file: ws of pictures that `stylert project` found, with their network as JSON in the metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from stylert.core.errors import BundleError, InputError, as_path, shown, shown_line
from stylert.core.files.digests import check_sha256, sha256_of
from stylert.core.files.json_documents import read_document
from stylert.core.files.safetensors_files import check_header, digest, safetensors_file
from stylert.core.ranges import check_ranges
from stylert.runtime.bundle import Bundle
from stylert.runtime.input_checks import finite_number

#: Key of the JSON document in the metadata of the file, and name of its tensor
METADATA_KEY, TENSOR = "stylert", "ws"
FORMAT_VERSION = 1
#: Size of a file. 10,000 pictures at 1024 px have 369 MB.
MAX_FILE_BYTES = 512 * 2**20
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
    path = as_path(path, "file of latents")
    if not isinstance(latents, Latents):
        raise InputError(f"these are no Latents: {shown(latents)}")
    try:
        with np.errstate(over="ignore"):  # of float64: it becomes infinite, which is found below
            ws = np.ascontiguousarray(latents.ws, np.float32)
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
        text = json.dumps(asdict(document), allow_nan=False)
    except (ValueError, TypeError) as e:
        raise InputError(f"these latents cannot be written: {shown_line(str(e))}") from None
    read_document(text, _Document, "the description of these latents", InputError)
    with safetensors_file(path) as temporary:
        save_file({TENSOR: ws}, temporary, {METADATA_KEY: text})


def read_latents(path: str | Path) -> Latents:
    """Read latents, checked.

    Raises:
        InputError: The file is missing, damaged, or holds no latents.
    """
    path = as_path(path, "file of latents")
    kind = f"file of latents {path}"
    check_header(path, InputError, "file of latents", MAX_FILE_BYTES)
    file_hash = sha256_of(path)
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(METADATA_KEY, "")
            if '"kind": "latents"' not in text:
                raise InputError(f"{kind} holds no latents; `stylert project` writes such files")
            document = read_document(text, _Document, f"{kind}: its metadata", InputError)
            if list(file.keys()) != [TENSOR] or file.get_slice(TENSOR).get_dtype() != "F32":
                raise InputError(f"{kind} is damaged: it does not hold {TENSOR} as F32 alone")
            ws: np.ndarray = file.get_tensor(TENSOR)
    except (SafetensorError, OSError, TypeError) as e:
        raise InputError(f"{kind} is not a whole safetensors file: {shown_line(str(e))}") from None
    try:
        _check_ws(ws, len(document.names))
        if ws.shape[1:] != (document.num_ws, document.w_dim):
            raise ValueError(f"its latents are {list(ws.shape[1:])}, not [{document.num_ws}, {document.w_dim}]")
    except ValueError as e:
        raise InputError(f"{kind} is damaged: {e}") from None
    if digest({TENSOR: ws}) != document.sha256:
        raise InputError(f"{kind} was changed or damaged: its latents do not match their sha256")
    return Latents(document.network, ws, document.names, document.facts, file_hash)


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


def _check_ws(ws: np.ndarray, count: int) -> None:
    """Raise ValueError unless this is float32 `[count, num_ws, w_dim]` and finite."""
    if ws.dtype != np.float32 or ws.ndim != 3 or len(ws) != count:
        raise ValueError(
            f"the latents of {count} pictures are float32 [{count}, num_ws, w_dim], not {ws.dtype} {list(ws.shape)}"
        )
    if not np.isfinite(ws).all():
        raise ValueError("latents hold values that are not finite")
