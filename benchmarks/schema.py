"""The one form in which every benchmark writes what it measured: `schema.json`, version 2, and these dataclasses.

A row says what was computed (`work`), with what (`setup`), and what came out. Two rows may be set side by side only where
their work is equal; rows of one work and setup on two machines are what `compare.py` compares.
"""

from __future__ import annotations

import datetime
import functools
import importlib.util
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stylert.benchmarks.distribution import Distribution
from stylert.benchmarks.machine.facts import installed, machine_facts
from stylert.core.atomic import atomic_file
from stylert.core.errors import InputError, missing_extra

SCHEMA = 2
KIND = "stylert benchmark"
LIST_OF_NUMBERS = re.compile(r"\[\n([-+0-9.eE,\s]+)\n\s*\]")


@dataclass(frozen=True)
class Row:
    """One measurement. `rounds` are the samples in the unit of `value`, a list per process; `floor` is in that unit too.

    `distribution` is that of single calls in ms where there are calls (of `batch` images each), of the samples otherwise.
    """

    scenario: str
    work: dict[str, Any]
    setup: dict[str, Any]
    metric: str
    unit: str
    better: str  # lower or higher
    value: float
    rounds: list[list[float]]
    distribution: Distribution | None
    remarks: list[str] = field(default_factory=list)
    images_per_s: float | None = None
    peak_memory_mib: float | None = None
    device_memory_mib: float | None = None
    joules_per_image: float | None = None
    floor: float | None = None
    disturbance: dict[str, Any] | None = None
    phases_ms: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerTime:
    """What one layer took: ms of one call, or kernels where nothing could be timed. `floor` in ms, where it is known."""

    layer: str
    value: float
    nodes: int
    floor: float | None = None


@dataclass(frozen=True)
class Profile:
    """Per-layer figures of one setup under StyleGAN2's layer names; `styles` stands before them, `image` behind them."""

    work: dict[str, Any]
    setup: dict[str, Any]
    unit: str
    total: float
    method: str
    layers: list[LayerTime]


@dataclass(frozen=True)
class Results:
    """Everything that one run of a benchmark has to say; `created` dates the run, however often it is written."""

    title: str
    rows: list[Row]
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    conditions: dict[str, Any] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)
    ceiling: dict[str, Any] | None = None
    accuracy: list[dict[str, Any]] = field(default_factory=list)
    layers: list[Profile] = field(default_factory=list)
    engines: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[dict[str, str]] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    created: str = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))

    def document(self) -> dict[str, Any]:
        """As JSON values, with this machine, numbers at six digits."""
        known = installed("stylert") or "from its sources"
        head = {"schema": SCHEMA, "kind": KIND, "created": self.created, "stylert": known, "machine": machine_facts()}
        return _rounded(head | asdict(self))


def write_results(results: Results, path: str | Path) -> dict[str, Any]:
    """Validate, write and return the document. Atomic. Raises as `validate`.

    Without jsonschema, which a GPU machine may lack, what was measured is written all the same: whoever reads it validates it.
    """
    document = results.document()
    if importlib.util.find_spec("jsonschema") is not None:
        validate(document, str(path))
    with atomic_file(path) as temporary:
        temporary.write_text(to_json(document))
    return document


def read_results(path: str | Path) -> dict[str, Any]:
    """A document that is known to be valid. Raises InputError where the file is missing, no JSON, or of another schema."""
    try:
        document = json.loads(Path(path).read_text(), parse_constant=_refuse)
    except OSError as e:
        raise InputError(f"{path} cannot be read: {e.strerror or e}") from None
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path} is not JSON: {e}") from None
    validate(document, str(path))
    return document


def validate(document: Any, name: str) -> None:
    """Raises InputError with the first thing that is wrong, and where."""
    try:
        from jsonschema.exceptions import best_match
    except ImportError:
        raise missing_extra("jsonschema", "bench") from None
    if isinstance(document, dict) and document.get("kind") == KIND and document.get("schema") != SCHEMA:
        raise InputError(f"{name} has schema {document.get('schema')!r}; this stylert reads schema {SCHEMA}")
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise InputError(f"{name} is not a benchmark of stylert: those are results.json, as stylert bench --out writes it")
    error = best_match(_validator().iter_errors(document))
    if error is not None:
        place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error.absolute_path)
        raise InputError(f"{name} is not a benchmark of stylert: {place.lstrip('.') or 'it'}: {error.message[:200]}")


def to_json(document: dict[str, Any]) -> str:
    """JSON with one line for each list of numbers, so that files stay readable and their changes small."""
    text = json.dumps(document, indent=1, allow_nan=False)
    return LIST_OF_NUMBERS.sub(lambda m: f"[{' '.join(m[1].split())}]", text) + "\n"


def schema() -> dict[str, Any]:
    """The JSON Schema of a document."""
    return json.loads((Path(__file__).parent / "schema.json").read_text())


def row_name(row: dict[str, Any] | Row) -> str:
    """A row in words: what ran it, and on what."""
    values = asdict(row) if isinstance(row, Row) else row
    work, setup = values["work"], values["setup"]
    words = [work.get("model"), setup.get("form"), setup["backend"], work.get("precision")]
    words += [f"{work[k]}" for k in ("kernel", "layer", "dtype", "preset") if k in work]
    if "preset" in work:
        words.append(f"{work['resolution']} px")
    if "batch" in work:
        words.append(f"×{work['batch']}")
    return " ".join(str(w) for w in words if w and w != "stylert")


@functools.cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(schema())


def _rounded(value: Any) -> Any:
    """Six digits, no numbers of NumPy, tuples as lists; what is not finite becomes null."""
    if isinstance(value, dict):
        return {str(k): _rounded(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_rounded(v) for v in value]
    if isinstance(value, bool) or value is None or isinstance(value, str | int):
        return value
    number = float(value)
    return float(f"{number:.6g}") if math.isfinite(number) else None


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no number")
