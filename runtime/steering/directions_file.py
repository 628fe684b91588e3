"""Directions in a safetensors file: a vector for each name, with the network that they belong to as JSON in the metadata."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from stylert.core.errors import BundleError, InputError, shown, shown_line
from stylert.core.files.digests import check_sha256
from stylert.core.files.safetensors_files import digest
from stylert.core.ranges import check_ranges
from stylert.runtime.bundle import Bundle
from stylert.runtime.input_checks import whole_number
from stylert.runtime.steering.tensor_files import TensorFile, as_float32

FORMAT_VERSION = 1
MAX_DIRECTIONS = 10_000
#: A name begins with a letter or digit. `@` and `=` end it in a move.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")

Space = Literal["w", "styles"]


@dataclass(frozen=True)
class Direction:
    """One direction. A move by a strength adds the strength times `vector`.

    Attributes:
        space: `w`: the vector is added to latents of ws. `styles`: it is added to the styles of all layers.
        vector: float32, `[w_dim]` or `[S]`. A strength of 1 is one standard deviation of w, or of the style, along it.
        latents: The latents that move unless the user names others. Empty in the space `styles`.
        method: How it was found, for people.
        facts: Figures of the method by name, for people.
    """

    space: Space
    vector: np.ndarray
    latents: tuple[int, ...] = ()
    method: str = ""
    facts: Mapping[str, float] = field(default_factory=dict)


#: Least and greatest value of the sizes of a network, in a file of directions.
RANGES = {"num_ws": (1, 1024), "w_dim": (1, 65_536), "style_channels": (0, 2**22)}


@dataclass(frozen=True)
class Directions:
    """The directions of one network.

    Attributes:
        network: sha256 of the checkpoint file, which a bundle names as its origin.
        num_ws: The number of latents in ws.
        w_dim: The width of a latent.
        style_channels: The number of styles of all layers.
        by_name: The directions, in the order in which they were found.
        sha256: The hash of the file; empty for directions that were not read from one.
    """

    network: str
    num_ws: int
    w_dim: int
    style_channels: int
    by_name: Mapping[str, Direction]
    sha256: str = ""

    def __getitem__(self, name: str) -> Direction:
        """The direction of a name. Raises InputError if there is none."""
        if not isinstance(name, str) or name not in self.by_name:
            known = ", ".join(map(str, list(self.by_name)[:12]))
            raise InputError(f"there is no direction {shown(name)}, only {known}{', ...' if len(self.by_name) > 12 else ''}")
        return self.by_name[name]

    def check_network(self, bundle: Bundle) -> None:
        """Raise BundleError unless the bundle was exported from the network of these directions.

        Raises:
            BundleError: It was not.
            InputError: It is no bundle, or a program made directions that do not fit together.
        """
        check_directions(self)
        if not isinstance(bundle, Bundle):
            raise InputError(f"a bundle is a Bundle, as Bundle.load returns it, not {shown(bundle)}")
        origin = bundle.provenance.get("checkpoint_sha256")
        shape = (bundle.num_ws, bundle.model["w_dim"])
        if origin != self.network or shape != (self.num_ws, self.w_dim):
            raise BundleError(
                f"these directions belong to the network {self.network[:12]}, and bundle {bundle.path} to "
                f"{shown_line(str(origin), 12)}: find directions of its own checkpoint"
            )


def check_directions(directions: Directions, names: Collection[str] = ()) -> None:
    """Check directions that a program made, before they move anything.

    Args:
        directions: The directions.
        names: The names of those to check.

    Raises:
        InputError: These are no directions, there is none of a name, or its vector or its latents do not fit the sizes.
    """
    if not isinstance(directions, Directions) or not isinstance(directions.by_name, Mapping):
        raise InputError(f"directions are Directions, as read_directions returns them, not {shown(directions)}")
    try:
        check_sha256(directions.network)
        check_ranges(directions, RANGES)
        for name in directions.by_name:
            if not isinstance(name, str):
                raise ValueError(f"a direction is named by a text, not {shown(name)}")
        for name in names:
            _check_direction(directions, name)
    except ValueError as e:
        raise InputError(f"these directions do not fit together: {shown_line(str(e))}") from None


def _check_direction(directions: Directions, name: str) -> None:
    """Raise ValueError unless a direction fits the sizes of the network. Its vector may have another type of floats."""
    direction = directions[name]
    if not isinstance(direction, Direction) or direction.space not in get_args(Space):
        raise ValueError(f"{name} is no Direction in w or styles")
    if not isinstance(direction.vector, np.ndarray) or direction.vector.dtype.kind != "f":
        raise ValueError(f"the vector of {name} is no array of floats but {shown(direction.vector)}")
    with np.errstate(over="ignore"):  # of float64: it becomes infinite, which is found here
        _check_vector(directions, name, direction.space, direction.vector.astype(np.float32))
    if not isinstance(direction.latents, Sequence) or isinstance(direction.latents, str | bytes):
        raise ValueError(f"the latents of {name} are no list but {shown(direction.latents)}")
    for latent in direction.latents:
        whole_number(latent, f"a latent of {name}", 0, int(directions.num_ws) - 1)


def check_names(names: Collection[str]) -> None:
    """Check, before a long computation, that directions can have these names.

    Raises:
        InputError: There are none or too many, or a name is not valid.
    """
    if not 1 <= len(names) <= MAX_DIRECTIONS:
        raise InputError(f"a file has 1 to {MAX_DIRECTIONS} directions, not {len(names)}")
    for name in names:
        if not isinstance(name, str) or NAME.fullmatch(name) is None:
            raise InputError(
                f"a direction has a name of up to 40 letters, digits, dots, hyphens and underscores, not {shown(name)}"
            )


def write_directions(path: str | Path, directions: Directions) -> None:
    """Write directions to a file, whole or not at all. The same directions give the same bytes.

    Numbers may be of NumPy. The document is checked as `read_directions` checks it.

    Raises:
        InputError: There are none or too many, or a name, a vector or a number is not valid.
        OutputError: The file cannot be written.
    """
    if not isinstance(directions, Directions) or not isinstance(directions.by_name, Mapping):
        raise InputError(f"these are no Directions: {shown(directions)}")
    check_names(directions.by_name)
    try:
        vectors = {name: as_float32(d.vector) for name, d in directions.by_name.items()}
        entries = tuple(
            _Entry(name, d.space, tuple(d.latents), d.method, dict(d.facts)) for name, d in directions.by_name.items()
        )
        document = _Document(
            kind="directions",
            version=FORMAT_VERSION,
            network=directions.network,
            num_ws=directions.num_ws,
            w_dim=directions.w_dim,
            style_channels=directions.style_channels,
            sha256=digest(vectors),
            directions=entries,
        )
    except (ValueError, TypeError, AttributeError) as e:
        raise InputError(f"these directions cannot be written: {shown_line(str(e))}") from None
    FILE.write(FILE.path(path), document, vectors)


def read_directions(path: str | Path) -> Directions:
    """Read directions, checked.

    Raises:
        InputError: The file is missing, damaged, or holds no directions.
    """
    document, vectors, file_hash = FILE.read(FILE.path(path))
    by_name = {e.name: Direction(e.space, vectors[e.name], e.latents, e.method, e.facts) for e in document.directions}
    return Directions(document.network, document.num_ws, document.w_dim, document.style_channels, by_name, file_hash)


@dataclass(frozen=True)
class _Entry:
    """One direction in the JSON document."""

    name: str
    space: Space
    latents: tuple[int, ...]
    method: str = ""
    facts: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            check_names([self.name])
        except InputError as e:
            raise ValueError(str(e)) from None


@dataclass(frozen=True)
class _Document:
    """The JSON document. `kind` comes first: it is the mark by which stylert knows the file (`core.files.outputs`)."""

    kind: Literal["directions"]
    version: int
    network: str
    num_ws: int
    w_dim: int
    style_channels: int
    sha256: str
    directions: tuple[_Entry, ...]

    def __post_init__(self) -> None:
        if self.version != FORMAT_VERSION:
            raise ValueError(f"it has format version {self.version}; this stylert reads {FORMAT_VERSION}")
        check_sha256(self.network)
        check_ranges(self, RANGES)
        if not 1 <= len(self.directions) <= MAX_DIRECTIONS:
            raise ValueError(f"a file has 1 to {MAX_DIRECTIONS} directions, not {len(self.directions)}")
        names = {entry.name for entry in self.directions}
        if len(names) != len(self.directions):
            raise ValueError("two directions have the same name")
        for entry in self.directions:
            if entry.space == "w" and not (entry.latents and all(0 <= i < self.num_ws for i in entry.latents)):
                raise ValueError(f"{entry.name} moves latents that the network does not have")


def _check_vector(sizes: _Document | Directions, name: str, space: Space, vector: np.ndarray) -> None:
    """Raise ValueError unless a vector has the type and shape of its space, and is finite."""
    size = sizes.w_dim if space == "w" else sizes.style_channels
    if vector.dtype != np.float32 or vector.shape != (size,):
        raise ValueError(f"{name} is {vector.dtype} {list(vector.shape)}, not float32 [{size}]")
    if not np.isfinite(vector).all():
        raise ValueError(f"{name} holds values that are not finite")


def _check(document: _Document, vectors: Mapping[str, np.ndarray]) -> None:
    for entry in document.directions:
        _check_vector(document, entry.name, entry.space, vectors[entry.name])


def _names(document: _Document) -> list[str]:
    return [entry.name for entry in document.directions]


FILE = TensorFile("directions", "stylert directions", _Document, _names, _check)
