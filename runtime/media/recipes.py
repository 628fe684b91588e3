"""The recipe of a picture or video: what it was made of, written into it, read back from it.

    {"AI-generated": true, "stylert": "0.1.0", "command": "mix", "bundle": "9f2c…", "seeds": "0-3", "columns": "10-14", …}

A recipe names its bundle by the sha256 of `bundle.json`, which itself holds the sha256 of every network. With the same bundle,
backend and machine the same recipe gives the same bytes; how many images were computed in one call is therefore part of it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from stylert.core.errors import BundleError, InputError
from stylert.core.seeds import MAX_SEED, format_seeds, parse_seeds
from stylert.runtime.bundle import MANIFEST, Bundle, sha256_of
from stylert.runtime.media.image_metadata import MAX_COMMENT, read_comment

#: Command to the fields that it has beyond those of every command
COMMANDS: dict[str, tuple[str, ...]] = {
    "generate": ("together",),
    "grid": (),
    "mix": ("columns", "levels"),
    "sweep": (),
    "interpolate": ("frames", "fps", "loop", "space"),
}
VIDEO = "interpolate"
MAX_FPS = 120


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that a picture or video depends on. A field that may be None because only some commands have it is in `COMMANDS`.

    Raises InputError for a field of the wrong type or range, or of another command. What only the network can tell (cutoff,
    levels, class, precision) is checked when it runs.
    """

    command: str
    version: str = dataclasses.field(default_factory=lambda: version("stylert"))
    bundle: str  # sha256 of bundle.json
    backend: str
    precision: str
    seeds: tuple[int, ...]  # of a grid in reading order; of a mix or sweep the rows; of an interpolation the keyframes
    together: tuple[int, ...] | None = None  # the seeds of the call that made this picture
    columns: tuple[int, ...] | None = None  # seeds
    levels: tuple[int, ...] | None = None  # the latents that come from the columns
    psi: tuple[float, ...]  # one, but of a sweep one per column
    cutoff: int | None = None
    label: int | None = None
    frames: int | None = None
    fps: int | None = None
    loop: bool | None = None
    space: str | None = None  # of the interpolation: w or z
    batch: int = 8  # images per call

    def __post_init__(self) -> None:
        for name, fits in _CHECKS.items():
            value = getattr(self, name)
            if not (fits(value) or (value is None and name in _OPTIONAL)):
                raise InputError(f"{_KEYS[name]} cannot be {_short(value)}")
        for name in _OF_SOME_COMMANDS:
            wanted = name in COMMANDS[self.command]
            if (getattr(self, name) is not None) != wanted:
                raise InputError(f"the recipe of a {self.command} {'lacks' if wanted else 'cannot have'} {_KEYS[name]!r}")
        if len(self.psi) > 1 and self.command != "sweep":
            raise InputError(f"a {self.command} takes one psi, not {len(self.psi)}")
        if self.together is not None and (len(self.seeds) != 1 or self.seeds[0] not in self.together):
            raise InputError("the recipe of one picture names one seed, which is also among 'together'")

    def to_json(self) -> str:
        """One line of ASCII. Raises InputError when the seeds are so many that it would not fit into a file's comment."""
        data: dict[str, Any] = {"AI-generated": True}
        for name, key in _KEYS.items():
            value = getattr(self, name)
            if value is not None:
                data[key] = format_seeds(value) if name in _SEEDS else value
        text = json.dumps(data)
        if len(text) > MAX_COMMENT - 1000:  # XMP needs a frame
            raise InputError(
                f"a recipe of {len(text)} characters does not fit into a picture: give fewer seeds, or a range of them"
            )
        return text

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Raises InputError, in one line, on anything but what `to_json` writes."""
        try:
            data = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            raise InputError("the recipe is not JSON") from None
        if not isinstance(data, dict) or data.pop("AI-generated", None) is not True:
            raise InputError("the comment is not a recipe that stylert wrote")
        missing = [key for name, key in _KEYS.items() if name not in _OPTIONAL and key not in data]
        unknown = sorted(set(data) - set(_KEYS.values()))
        if missing or unknown:
            raise InputError(
                f"the recipe {f'lacks {missing[0]!r}' if missing else f'has an unknown field {_short(unknown[0])}'}"
            )
        values: dict[str, Any] = {}
        for name, key in _KEYS.items():
            value = data.get(key)
            if name in _SEEDS and isinstance(value, str):
                value = tuple(parse_seeds(value))
            values[name] = tuple(value) if isinstance(value, list) and name not in _SEEDS else value
        return cls(**values)


def read_recipe(path: str | Path) -> Recipe:
    """The recipe that a picture or video carries. Raises InputError, in one line, when it carries none or a wrong one."""
    text = read_comment(path)
    try:
        return Recipe.from_json(text)
    except InputError as e:
        raise InputError(f"{path}: {e}") from None


def bundle_hash(bundle: Bundle) -> str:
    """What a recipe calls a bundle: the sha256 of its `bundle.json`."""
    return sha256_of(bundle.path / MANIFEST)


def check_bundle(recipe: Recipe, bundle: Bundle) -> None:
    """Raise BundleError unless `bundle` is the one of the recipe."""
    found = bundle_hash(bundle)
    if found != recipe.bundle:
        raise BundleError(f"bundle {bundle.path} has the hash {found[:12]}, but the recipe asks for {recipe.bundle[:12]}")


#: Field to its name in JSON
_KEYS = {f.name: {"version": "stylert", "label": "class"}.get(f.name, f.name) for f in dataclasses.fields(Recipe)}
_SEEDS = ("seeds", "together", "columns")
_OF_SOME_COMMANDS = sorted({name for names in COMMANDS.values() for name in names})
_OPTIONAL = {"cutoff", "label", *_OF_SOME_COMMANDS}


def _whole(low: int, high: int) -> Any:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v <= high


def _tuple_of(fits: Any) -> Any:
    return lambda v: isinstance(v, tuple) and len(v) > 0 and all(fits(x) for x in v)


def _text(limit: int) -> Any:
    return lambda v: isinstance(v, str) and 0 < len(v) <= limit and v.isprintable()


def _factor(v: object) -> bool:
    return isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) and abs(v) <= 1000


def _sha256(v: object) -> bool:
    return isinstance(v, str) and len(v) == 64 and not set(v) - set("0123456789abcdef")


_CHECKS: dict[str, Any] = {
    "command": lambda v: isinstance(v, str) and v in COMMANDS,
    "version": _text(40),
    "bundle": _sha256,
    "backend": _text(40),
    "precision": _text(40),
    "seeds": _tuple_of(_whole(0, MAX_SEED)),
    "together": _tuple_of(_whole(0, MAX_SEED)),
    "columns": _tuple_of(_whole(0, MAX_SEED)),
    "levels": _tuple_of(_whole(0, 63)),
    "psi": _tuple_of(_factor),
    "cutoff": _whole(0, 2**31 - 1),
    "label": _whole(0, 2**31 - 1),
    "frames": _whole(2, 10_000_000),
    "fps": _whole(1, MAX_FPS),
    "loop": lambda v: isinstance(v, bool),
    "space": lambda v: v in ("w", "z"),
    "batch": _whole(1, 65536),
}


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)  # NaN and Infinity, which JSON does not have


def _short(value: object) -> str:
    if isinstance(value, tuple):
        value = list(value[:8])
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
