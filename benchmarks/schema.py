"""The file format of all benchmark results, version 2: the dataclasses that write it, and the one that reads it.

A row names the computation (`work`), the way it was run (`setup`), and its result. Rows may be compared only if their work is
equal. `report/compare.py` compares rows of equal work and setup from two machines.
"""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from stylert.benchmarks.document_parts import (
    AccuracyEntry,
    Ceiling,
    Engine,
    Machine,
    Model,
    NotNegative,
    Picture,
    Positive,
    Scenario,
    SpeedRatio,
    check_profile,
    check_row,
)
from stylert.benchmarks.machine.facts import installed_version, machine_facts
from stylert.benchmarks.sample_statistics import Distribution
from stylert.core.errors import InputError, shown
from stylert.core.files.atomic import atomic_file
from stylert.core.files.inputs import read_file
from stylert.core.files.json_documents import read_document, read_part
from stylert.core.files.outputs import document_text

SCHEMA = 2
KIND = "stylert benchmark"
#: Bytes of a document, at most. Those of the repository have up to 100 kB.
MAX_BYTES = 16 * 2**20
#: Rows of a document, its profiles, and the layers of one of these, at most. Those of the repository have 40, 5 and 30.
MAX_ROWS, MAX_PROFILES, MAX_LAYERS = 1000, 100, 500
#: A list of numbers as `json.dumps` indents it.
LIST_OF_NUMBERS = re.compile(r"\[\n([-+0-9.eE,\s]+)\n\s*\]")


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        scenario: One of `Scenario`.
        work: The computation: model, weights, resolution, precision, batch and so on.
        setup: How it was run: backend, form, threads and so on.
        metric: Name of the measured quantity.
        unit: Unit of `value`, `rounds` and `floor`.
        better: `lower` or `higher`.
        value: The result.
        rounds: Samples, one list per process.
        distribution: Statistics of single calls in ms, or of `rounds` where no calls were timed. A call makes `batch` images.
        remarks: Reasons not to rely on the row, each as `<kind>: <observation>`.
        images_per_s: Images per second.
        peak_memory_mib: Peak memory of the process, in MiB.
        device_memory_mib: Peak memory on the GPU, in MiB.
        joules_per_image: Energy of the GPU per image.
        floor: Lower bound of a time, or upper bound of a rate, from the peak rates of the machine.
        disturbance: Fields of `Interference`.
        phases_ms: Duration of each part of a call or of a start.
        details: Further figures of the scenario.
    """

    scenario: Scenario
    work: Annotated[dict[str, Any], Meta(min_length=1)]
    setup: dict[str, Any]
    metric: str
    unit: str
    better: Literal["lower", "higher"]
    value: float
    rounds: list[Annotated[list[Positive], Meta(min_length=1)]]
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
    """Time of one layer.

    Attributes:
        layer: StyleGAN2's name of the layer, `styles` or `image`.
        value: Milliseconds of one call, or the number of kernels if the backend reports no times.
        nodes: Number of graph nodes that belong to the layer.
        floor: Lower bound in ms, from the peak rates of the machine.
    """

    layer: str
    value: NotNegative
    nodes: Annotated[int, Meta(ge=0)]
    floor: float | None = None


@dataclass(frozen=True)
class Profile:
    """Times of all layers of one network.

    Attributes:
        work: As in `Row`.
        setup: As in `Row`.
        unit: Unit of `LayerTime.value`.
        total: Sum over the layers.
        method: The profiler that was used.
        layers: First the affine layers together as `styles`, then the layers, then the conversion of the image as `image`.
    """

    work: dict[str, Any]
    setup: dict[str, Any]
    unit: Literal["ms", "kernels"]
    total: NotNegative
    method: str
    layers: Annotated[list[LayerTime], Meta(max_length=MAX_LAYERS)]


@dataclass(frozen=True)
class Results:
    """Everything that one run of a benchmark measured.

    Attributes:
        title: Heading of the report.
        rows: The measurements.
        models: Facts about each model, by name.
        conditions: Options of the run, and ratios to peers as `times faster`.
        command: Command line.
        ceiling: Peak rates of the machine.
        accuracy: Fields of `Accuracy`, for each model, backend and precision.
        layers: Times per layer.
        engines: Fields of each `engine.json`.
        pictures: File name and caption of each sample image.
        provenance: Origin of each model's weights.
        created: Start of the run, in UTC. All files of one run have the same date.
    """

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
        """The results and the facts about this machine as JSON values. Numbers have six significant digits."""
        head = {
            "schema": SCHEMA,
            "kind": KIND,
            "created": self.created,
            "stylert": installed_version("stylert") or "from its sources",
            "machine": machine_facts(),
        }
        return _json_values(head | asdict(self))


@dataclass(frozen=True)
class Document:
    """A results file as it is read. The fields are those of `Results` and the facts about the machine."""

    schema: Literal[2]
    kind: Literal["stylert benchmark"]
    title: Annotated[str, Meta(min_length=1)]
    created: Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    stylert: str
    command: list[str]
    machine: Machine
    conditions: dict[str, Any]
    models: dict[str, Model]
    rows: Annotated[list[Row], Meta(max_length=MAX_ROWS)]
    ceiling: Ceiling | None = None
    accuracy: list[dict[str, Any]] = field(default_factory=list)
    layers: Annotated[list[Profile], Meta(max_length=MAX_PROFILES)] = field(default_factory=list)
    engines: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for place, check, entries in (
            ("rows", check_row, self.rows),
            ("layers", check_profile, self.layers),
            ("accuracy", _checker(AccuracyEntry), self.accuracy),
            ("engines", _checker(Engine), self.engines),
            ("conditions.times faster", _checker(dict[str, SpeedRatio]), [self.conditions.get("times faster", {})]),
        ):
            for i, entry in enumerate(entries):
                try:
                    check(entry)
                except ValueError as e:
                    raise ValueError(f"{place}[{i}]: {e}") from None


@dataclass(frozen=True)
class _Head:
    """The entries that say whether a file is a results file."""

    kind: Any = None
    schema: Any = None


def write_results(results: Results, path: str | Path) -> dict[str, Any]:
    """Validate the document, write it atomically and return it.

    Raises:
        InputError: The document does not follow the schema.
    """
    document = results.document()
    validate(document, str(path))
    with atomic_file(path) as temporary:
        temporary.write_text(to_json(document), encoding="utf-8")
    return document


def read_results(path: str | Path) -> dict[str, Any]:
    """Read and validate a document.

    Returns:
        The fields of `Document` as dictionaries and lists. Those that the file does not have are there with their defaults.

    Raises:
        InputError: The file cannot be read, is too large, is not JSON, or does not follow the schema.
    """
    text = read_file(path, InputError, MAX_BYTES, "benchmark")
    head = read_document(text, _Head, f"benchmark {path}", InputError, MAX_BYTES)
    if head.kind != KIND:
        raise InputError(f"{path} is not a benchmark of stylert: expected a results.json written by stylert bench --out")
    if head.schema != SCHEMA:
        raise InputError(f"{path} has schema {shown(head.schema)}; this stylert reads schema {SCHEMA}")
    document = read_document(text, Document, f"benchmark {path}", InputError, MAX_BYTES)
    layers = [_values(profile) | {"layers": [_values(layer) for layer in profile.layers]} for profile in document.layers]
    return _values(document) | {"rows": [_values(row) for row in document.rows], "layers": layers}


def validate(document: Any, name: str) -> None:
    """Check a document of JSON values against the schema.

    Args:
        document: Parsed JSON.
        name: File name for the messages.

    Raises:
        InputError: An entry is missing or wrong. The message names it.
    """
    read_part(document, Document, f"benchmark {name}", InputError)


def _values(entry: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON values. msgspec alone leaves out those that have their defaults."""
    return {f.name: msgspec.to_builtins(getattr(entry, f.name)) for f in fields(entry)}


def _checker(kind: Any) -> Callable[[Any], object]:
    return lambda entry: msgspec.convert(entry, kind)


def to_json(document: dict[str, Any]) -> str:
    """Indented JSON with every list of numbers on one line."""
    text = json.dumps(document, indent=1, allow_nan=False)
    return LIST_OF_NUMBERS.sub(lambda m: f"[{' '.join(m[1].split())}]", text) + "\n"


def row_name(row: dict[str, Any] | Row) -> str:
    """Short name of a row from its work and setup, such as `sg2-256 openvino int8 ×4`."""
    work, setup = (row.work, row.setup) if isinstance(row, Row) else (row["work"], row["setup"])
    words = [work.get("model"), setup.get("form"), setup["backend"], work.get("precision")]
    words += [work.get(key) for key in ("kernel", "layer", "dtype", "preset")]
    if "preset" in work:
        words.append(f"{work['resolution']} px")
    if "batch" in work:
        words.append(f"×{work['batch']}")
    return " ".join(str(word) for word in words if word and word != "stylert")


def _json_values(value: Any) -> Any:
    """Convert tuples to lists, NumPy's numbers to Python's with six significant digits, and non-finite numbers to null."""
    if isinstance(value, dict):
        return {document_text(str(k)): _json_values(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_json_values(v) for v in value]
    if isinstance(value, str):
        return document_text(value)
    if isinstance(value, bool) or value is None or isinstance(value, int):
        return value
    number = float(value)
    return float(f"{number:.6g}") if math.isfinite(number) else None
