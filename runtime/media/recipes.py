"""The recipe of a picture or video: the data on which it depends, written into the file and read back from it.

    {"AI-generated": true, "stylert": "0.1.0", "command": "mix", "bundle": "9f2c…", "seeds": "0-3", "columns": "10-14", …}

A recipe names its bundle by the sha256 of `bundle.json`, which holds the sha256 of every network. The same recipe gives the
same bytes on the same machine, with the same bundle and backend. The bytes depend on the batch, so the recipe has it too.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from stylert.core.errors import BundleError, InputError, shown
from stylert.core.files.digests import sha256_of
from stylert.core.files.json_documents import read_document
from stylert.core.seeds import MAX_SEED, format_seeds, parse_seeds
from stylert.runtime.bundle import MANIFEST, Bundle
from stylert.runtime.media.image_metadata import MAX_COMMENT, read_comment
from stylert.runtime.steering.moves import Move, columns_of, parse_move

#: The commands, each with those of its fields that not every command has
COMMANDS: dict[str, tuple[str, ...]] = {
    "generate": ("together",),
    "grid": (),
    "mix": ("columns", "levels"),
    "sweep": (),
    "interpolate": ("frames", "fps", "loop", "space"),
    "compose": ("latents", "toward", "at"),
    "edit": ("directions", "moves"),
    "sheet": ("directions", "moves"),
}
#: Fields that a command may have beside these, all of them or none
FURTHER_FIELDS: dict[str, tuple[str, ...]] = {
    "compose": ("directions", "moves"),
    **dict.fromkeys(("generate", "grid", "mix", "sweep", "interpolate", "edit", "sheet"), ("ws",)),
}
#: The command that makes a video. The others make pictures.
VIDEO = "interpolate"
MAX_FPS = 120
#: Images of one call. A network needs memory for all of them at once, whatever the size of the file with the recipe.
MAX_BATCH = 256

#: The largest number of float32
MAX_FLOAT32 = 3.4028234663852886e38

#: Moves of one edit, or rows of one contact sheet
MAX_MOVES = 1000
#: Characters of one move
MAX_MOVE_LENGTH = 4000

#: Bytes of a comment that the XMP packet around it may need
XMP_MARGIN = 1000


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The data on which a picture or video depends.

    The types and ranges of the fields are checked here. `rendering.check_fits` checks them against a network.

    Attributes:
        command: A key of `COMMANDS`.
        version: The version of stylert.
        bundle: The sha256 of `bundle.json`.
        backend: The backend's name.
        precision: The precision of the synthesis network.
        seeds: Of a grid in reading order, of a mix or sweep one per row, of an interpolation the keyframes. With `ws`, these and
            all other seeds are numbers of pictures in the file of latents, from 0 on.
        together: The seeds that were computed in one call with this picture.
        columns: The seeds of a mix's columns.
        levels: The latents of a mix that come from the columns.
        psi: The truncation: one number, but for a sweep one per column.
        cutoff: How many latents are truncated; None for all.
        label: The class of a conditional network. It is named `class` in JSON.
        label_vector: The label of a conditional network as numbers, in place of a class.
        frames: The number of frames.
        fps: Frames per second.
        loop: Whether the video returns to its first keyframe.
        space: Whether to interpolate in "w" or in "z".
        latents: Of a composition, the seed of each latent in ws.
        toward: Of a composition, the seed that the picture moves to.
        at: Of a composition, the part of the way in w to `toward`, from 0 to 1.
        directions: Of an edit, a contact sheet or a composition with moves, the sha256 of the file of directions.
        moves: Of an edit or a composition, the moves that each image makes, all together. Of a contact sheet, one move for each
            row.
        ws: The sha256 of a file of latents, whose pictures take the place of seeds.
        batch: Images per call of the network.

    Raises:
        InputError: A field has a wrong type or range, is missing, or does not belong to the command.
    """

    command: str
    version: str = dataclasses.field(default_factory=lambda: version("stylert"))
    bundle: str
    backend: str
    precision: str
    seeds: tuple[int, ...]
    together: tuple[int, ...] | None = None
    columns: tuple[int, ...] | None = None
    levels: tuple[int, ...] | None = None
    psi: tuple[float, ...]
    cutoff: int | None = None
    label: int | None = None
    label_vector: tuple[float, ...] | None = None
    frames: int | None = None
    fps: int | None = None
    loop: bool | None = None
    space: str | None = None
    latents: tuple[int, ...] | None = None
    toward: int | None = None
    at: float | None = None
    directions: str | None = None
    moves: tuple[str, ...] | None = None
    ws: str | None = None
    batch: int = 8

    def __post_init__(self) -> None:
        for name, is_valid in _CHECKS.items():
            value = getattr(self, name)
            may_be_missing = value is None and name in _OPTIONAL_FIELDS
            if not (may_be_missing or is_valid(value)):
                raise InputError(f"{_JSON_KEYS[name]} cannot be {_shorten(value)}")
        further = FURTHER_FIELDS.get(self.command, ())
        fields = COMMANDS[self.command] + (further if any(getattr(self, name) is not None for name in further) else ())
        for name in _COMMAND_FIELDS:
            belongs = name in fields
            present = getattr(self, name) is not None
            if present != belongs:
                problem = "lacks" if belongs else "cannot have"
                raise InputError(f"the recipe of a {self.command} {problem} {_JSON_KEYS[name]!r}")
        if self.label is not None and self.label_vector is not None:
            raise InputError("a label is a class or a vector, not both")
        if self.ws is not None and (self.label is not None or self.label_vector is not None):
            raise InputError("latents from a file take no label: it decided the latents of a seed alone")
        if self.ws is not None and self.space == "z":
            raise InputError("latents from a file have no z: interpolate in the space w")
        if len(self.psi) > 1 and self.command != "sweep":
            raise InputError(f"a {self.command} takes one psi, not {len(self.psi)}")
        if self.together is not None and (len(self.seeds) != 1 or self.seeds[0] not in self.together):
            raise InputError("the recipe of one picture names one seed, which is also among 'together'")
        if self.command == "sheet" and len(self.seeds) != 1:
            raise InputError(f"a contact sheet shows one seed, not {len(self.seeds)}")
        columns_of(self.parsed_moves)

    def to_json(self) -> str:
        """The recipe as one line of ASCII.

        Raises:
            InputError: It has so many seeds that a file's comment cannot hold it.
        """
        data: dict[str, Any] = {"AI-generated": True}
        for name, key in _JSON_KEYS.items():
            value = getattr(self, name)
            if value is not None:
                data[key] = format_seeds(value) if name in _SEED_FIELDS else value
        text = json.dumps(data)
        if len(text) > MAX_COMMENT - XMP_MARGIN:
            raise InputError(
                f"a recipe of {len(text)} characters does not fit into a picture: give fewer seeds, or a range of them, "
                "or a shorter label vector"
            )
        return text

    @property
    def parsed_moves(self) -> list[Move]:
        """The moves; none for commands without."""
        return [parse_move(text) for text in self.moves or ()]

    def labels(self, count: int) -> list[int] | np.ndarray | None:
        """The labels of `count` images, as `Generator.map` takes them. None without a label."""
        if self.label_vector is not None:
            return np.array([self.label_vector] * count, np.float64)
        return None if self.label is None else [self.label] * count

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Read what `to_json` wrote. Raises InputError for any other text."""
        data = read_document(text, dict[str, Any], "the recipe", InputError)
        if data.pop("AI-generated", None) is not True:
            raise InputError("the comment is not a recipe that stylert wrote")
        for name, key in _JSON_KEYS.items():
            if name not in _OPTIONAL_FIELDS and key not in data:
                raise InputError(f"the recipe lacks {key!r}")
        unknown = sorted(set(data) - set(_JSON_KEYS.values()))
        if unknown:
            raise InputError(f"the recipe has an unknown field {_shorten(unknown[0])}")
        return cls(**{name: _from_json_value(name, data.get(key)) for name, key in _JSON_KEYS.items()})


def read_recipe(path: str | Path) -> Recipe:
    """The recipe in a picture or video. Raises InputError if there is none, or if it is not valid."""
    text = read_comment(path)
    try:
        return Recipe.from_json(text)
    except InputError as e:
        raise InputError(f"{path}: {e}") from None


def bundle_hash(bundle: Bundle) -> str:
    """The sha256 of a bundle's `bundle.json`, by which recipes name it. Raises InputError for anything but a bundle."""
    if not isinstance(bundle, Bundle):
        raise InputError(f"a bundle is a Bundle, as Bundle.load returns it, not {shown(bundle)}")
    return sha256_of(bundle.path / MANIFEST)


def check_recipe(recipe: object) -> None:
    """Raise InputError unless this is a recipe."""
    if not isinstance(recipe, Recipe):
        raise InputError(f"a recipe is a Recipe, as read_recipe returns it, not {shown(recipe)}")


def check_bundle(recipe: Recipe, bundle: Bundle) -> None:
    """Raise BundleError unless the recipe names this bundle. InputError: it is no bundle, or no recipe."""
    check_recipe(recipe)
    actual = bundle_hash(bundle)
    if actual != recipe.bundle:
        raise BundleError(f"bundle {bundle.path} has the hash {actual[:12]}, but the recipe asks for {recipe.bundle[:12]}")


#: Every field's name in JSON
_JSON_KEYS = {f.name: {"version": "stylert", "label": "class"}.get(f.name, f.name) for f in dataclasses.fields(Recipe)}
#: Fields that JSON holds as text, such as "0-3,7"
_SEED_FIELDS = ("seeds", "together", "columns", "latents")
_COMMAND_FIELDS = sorted({name for names in (*COMMANDS.values(), *FURTHER_FIELDS.values()) for name in names})
_OPTIONAL_FIELDS = {"cutoff", "label", "label_vector", *_COMMAND_FIELDS}

_Check = Callable[[object], bool]


def _whole_number(low: int, high: int) -> _Check:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v <= high


def _tuple_of(is_valid: _Check) -> _Check:
    """A tuple that is not empty, with valid entries."""
    return lambda v: isinstance(v, tuple) and len(v) > 0 and all(is_valid(x) for x in v)


def _short_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 40 and value.isprintable()


def _factor(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1000  # false for NaN


def _float32(value: object) -> bool:
    # False for NaN.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= MAX_FLOAT32


def _move(value: object) -> bool:
    try:
        return isinstance(value, str) and len(value) <= MAX_MOVE_LENGTH and parse_move(value) is not None
    except InputError:
        return False


def _sha256(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef")


_CHECKS: dict[str, _Check] = {
    "command": lambda v: isinstance(v, str) and v in COMMANDS,
    "version": _short_text,
    "bundle": _sha256,
    "backend": _short_text,
    "precision": _short_text,
    "seeds": _tuple_of(_whole_number(0, MAX_SEED)),
    "together": lambda v: _tuple_of(_whole_number(0, MAX_SEED))(v) and len(v) <= MAX_BATCH,  # type: ignore[arg-type]
    "columns": _tuple_of(_whole_number(0, MAX_SEED)),
    "levels": _tuple_of(_whole_number(0, 63)),
    "psi": _tuple_of(_factor),
    "cutoff": _whole_number(0, 2**31 - 1),
    "label": _whole_number(0, 2**31 - 1),
    "label_vector": _tuple_of(_float32),
    "frames": _whole_number(2, 10_000_000),
    "fps": _whole_number(1, MAX_FPS),
    "loop": lambda v: isinstance(v, bool),
    "space": lambda v: v in ("w", "z"),
    "latents": _tuple_of(_whole_number(0, MAX_SEED)),
    "toward": _whole_number(0, MAX_SEED),
    "at": lambda v: _factor(v) and 0 <= v <= 1,  # type: ignore[operator]
    "directions": _sha256,
    "moves": lambda v: _tuple_of(_move)(v) and len(v) <= MAX_MOVES,  # type: ignore[arg-type]
    "ws": _sha256,
    "batch": _whole_number(1, MAX_BATCH),
}


def _from_json_value(name: str, value: Any) -> Any:
    """The value of a field from its value in JSON. Values of a wrong type stay as they are, for the checks to refuse."""
    if name in _SEED_FIELDS:
        return tuple(parse_seeds(value)) if isinstance(value, str) else value
    return tuple(value) if isinstance(value, list) else value


def _shorten(value: object) -> str:
    """The value for an error message, in at most 60 characters."""
    if isinstance(value, tuple):
        value = list(value[:8])
    return shown(value)
