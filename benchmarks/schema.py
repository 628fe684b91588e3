"""The file format of all benchmark results: `schema.json`, version 2, and the dataclasses that write it.

A row names the computation (`work`), the way it was run (`setup`), and its result. Rows may be compared only if their work is
equal. `report/compare.py` compares rows of equal work and setup from two machines.
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

from stylert.benchmarks.machine.facts import installed_version, machine_facts
from stylert.benchmarks.sample_statistics import Distribution
from stylert.core.errors import InputError, missing_extra
from stylert.core.files.atomic import atomic_file
from stylert.core.files.inputs import read_file
from stylert.core.files.json_documents import read_document

SCHEMA = 2
KIND = "stylert benchmark"
#: Bytes of a document, at most. Those of the repository have up to 100 kB.
MAX_BYTES = 64 * 2**20
#: A list of numbers as `json.dumps` indents it.
LIST_OF_NUMBERS = re.compile(r"\[\n([-+0-9.eE,\s]+)\n\s*\]")


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        scenario: One of the scenarios in `schema.json`.
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

    scenario: str
    work: dict[str, Any]
    setup: dict[str, Any]
    metric: str
    unit: str
    better: str
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
    """Time of one layer.

    Attributes:
        layer: StyleGAN2's name of the layer, `styles` or `image`.
        value: Milliseconds of one call, or the number of kernels if the backend reports no times.
        nodes: Number of graph nodes that belong to the layer.
        floor: Lower bound in ms, from the peak rates of the machine.
    """

    layer: str
    value: float
    nodes: int
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
    unit: str
    total: float
    method: str
    layers: list[LayerTime]


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


def write_results(results: Results, path: str | Path) -> dict[str, Any]:
    """Validate the document, write it atomically and return it.

    If jsonschema is not installed, the document is written without validation. Reading it validates it.

    Raises:
        InputError: The document does not follow the schema.
    """
    document = results.document()
    if importlib.util.find_spec("jsonschema") is not None:
        validate(document, str(path))
    with atomic_file(path) as temporary:
        temporary.write_text(to_json(document))
    return document


def read_results(path: str | Path) -> dict[str, Any]:
    """Read and validate a document.

    Raises:
        InputError: The file cannot be read, is too large, is not JSON, or does not follow the schema.
    """
    document = read_unvalidated(path)
    validate(document, str(path))
    return document


def read_unvalidated(path: str | Path) -> Any:
    """The JSON values in a file. Raises InputError if the file cannot be read, is too large, or is not JSON."""
    text = read_file(path, InputError, MAX_BYTES, "benchmark")
    return read_document(text, Any, f"benchmark {path}", InputError, MAX_BYTES)


def validate(document: Any, name: str) -> None:
    """Check a document against the schema.

    Args:
        document: Parsed JSON.
        name: File name for the messages.

    Raises:
        InputError: The document is of another kind or version, or an entry is wrong. The message names the entry.
    """
    try:
        from jsonschema.exceptions import best_match
    except ImportError:
        raise missing_extra("jsonschema", "bench") from None
    if isinstance(document, dict) and document.get("kind") == KIND and document.get("schema") != SCHEMA:
        raise InputError(f"{name} has schema {document.get('schema')!r}; this stylert reads schema {SCHEMA}")
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise InputError(f"{name} is not a benchmark of stylert: expected a results.json written by stylert bench --out")
    error = best_match(_validator().iter_errors(document))
    if error is not None:
        entry = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in error.absolute_path).lstrip(".")
        raise InputError(f"{name} is not a benchmark of stylert: {entry or 'top level'}: {error.message[:200]}")


def to_json(document: dict[str, Any]) -> str:
    """Indented JSON with every list of numbers on one line."""
    text = json.dumps(document, indent=1, allow_nan=False)
    return LIST_OF_NUMBERS.sub(lambda m: f"[{' '.join(m[1].split())}]", text) + "\n"


def schema() -> dict[str, Any]:
    """The JSON Schema of a document."""
    return json.loads((Path(__file__).parent / "schema.json").read_text())


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


@functools.cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(schema())


def _json_values(value: Any) -> Any:
    """Convert tuples to lists, NumPy's numbers to Python's with six significant digits, and non-finite numbers to null."""
    if isinstance(value, dict):
        return {str(k): _json_values(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_json_values(v) for v in value]
    if isinstance(value, bool) or value is None or isinstance(value, str | int):
        return value
    number = float(value)
    return float(f"{number:.6g}") if math.isfinite(number) else None
