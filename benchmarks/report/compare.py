"""Two or more results side by side: what was measured of the same work, the ratio, and whether it is more than chance."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stylert.benchmarks.report.significance import Difference, compare, holm, verdict
from stylert.benchmarks.report.tables import by_scenario, doubts
from stylert.benchmarks.schema import row_name
from stylert.core.errors import InputError

#: What of a setup decides which rows belong together. Versions and engines may differ: that is what is compared.
SAME_SETUP = ("backend", "form", "threads")


@dataclass(frozen=True)
class Line:
    """One row of the first file against the same row of another. `difference` is of the value: above 1, the other's is larger."""

    scenario: str
    name: str
    unit: str
    better: str
    first: float
    second: float
    difference: Difference | None  # None where a row has no samples
    adjusted: float | None  # probability after Holm's adjustment over all lines of the comparison
    verdict: str
    weak: bool  # whether something speaks against one of the rows: `Comparison.doubts`


@dataclass(frozen=True)
class Comparison:
    """The first file against one other: what speaks against a row of either, and the rows that one of them has alone, as text."""

    first: str
    second: str
    lines: list[Line]
    doubts: list[str]
    only: list[str]


def compare_results(documents: Sequence[tuple[str, dict[str, Any]]]) -> list[Comparison]:
    """The first of `(name, document)` against each of the others.

    Raises InputError for fewer than two, for models that share a name and not their weights, and for results with no row of
    the same work and setup: numbers of different work say nothing about machines.
    """
    if len(documents) < 2:
        raise InputError("a comparison takes at least two results")
    (first, base), *others = documents
    return [_compare(first, base, name, other) for name, other in others]


def _compare(first: str, a: dict[str, Any], second: str, b: dict[str, Any]) -> Comparison:
    for model in sorted(set(a["models"]) & set(b["models"])):
        x, y = a["models"][model]["weights"], b["models"][model]["weights"]
        if x != y:
            raise InputError(f"{first} and {second} measured different networks by the name {model}: weights {x} and {y}")
    mine, theirs = _by_key(first, a), _by_key(second, b)
    shared = [key for key in mine if key in theirs]
    if not shared:
        raise InputError(
            f"{first} and {second} have no measurement of the same work in common: {_works(a)} against {_works(b)}"
        )
    differences = [_difference(mine[k], theirs[k]) for k in shared]
    known = [d.p for d in differences if d is not None]
    adjusted = iter(holm(known))
    lines = []
    for key, difference in zip(shared, differences, strict=True):
        x, y = mine[key], theirs[key]
        p = None if difference is None else next(adjusted)
        judged = "one side has no samples" if difference is None or p is None else verdict(difference, p, x["better"])
        weak = bool(x["remarks"] or y["remarks"])
        lines.append(
            Line(x["scenario"], row_name(x), x["unit"], x["better"], x["value"], y["value"], difference, p, judged, weak)
        )
    doubted, only = [], []
    for name, rows, others in ((first, mine, theirs), (second, theirs, mine)):
        doubted += [f"{name}: {doubt}" for doubt in doubts([rows[key] for key in shared])]
        alone = [row for key, row in rows.items() if key not in others]
        only += [f"{name}, {scenario}: {', '.join(map(row_name, found))}" for scenario, found in by_scenario(alone).items()]
    return Comparison(first, second, lines, doubted, only)


def _difference(x: dict[str, Any], y: dict[str, Any]) -> Difference | None:
    """Single rounds of one sample are no series: they have a ratio, and nothing that could be said about chance."""
    if not x["rounds"] or not y["rounds"]:
        return None
    if min(sum(map(len, x["rounds"])), sum(map(len, y["rounds"]))) < 3:
        return None
    return compare(x["rounds"], y["rounds"])


def _by_key(name: str, document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for row in document["rows"]:
        setup = {k: row["setup"].get(k) for k in SAME_SETUP}
        key = json.dumps([row["scenario"], row["metric"], row["unit"], row["work"], setup], sort_keys=True)
        if key in found:
            raise InputError(f"{name} has two rows of the same work: {row['scenario']} {row_name(row)}")
        found[key] = row
    return found


def _works(document: dict[str, Any]) -> str:
    names = dict.fromkeys(f"{r['scenario']} {row_name(r)}" for r in document["rows"])
    shown = list(names)[:3]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else "nothing"
