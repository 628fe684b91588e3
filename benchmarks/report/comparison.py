"""Comparison of two or more results files: rows of the same work and setup, their ratio, and whether it is significant."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stylert.benchmarks.report.significance import MAX_SERIES, Difference, compare, holm, outcome
from stylert.benchmarks.report.tables import by_scenario, weak_rows
from stylert.benchmarks.schema import row_name
from stylert.core.errors import InputError

#: Entries of a setup that must be equal. Versions and engines may differ: a comparison is often about them.
SAME_SETUP = ("backend", "form", "threads")
#: Runs that the bootstraps of all rows of a comparison draw from together, and the least for a row.
BOOTSTRAP_RUNS, MIN_SERIES = 100_000, 100


@dataclass(frozen=True)
class RowComparison:
    """A row of the first file and the row of another file with the same work and setup.

    Attributes:
        scenario: Scenario of both rows.
        name: Name of both rows.
        unit: Unit of their values.
        better: `lower` or `higher`.
        first: Value in the first file.
        second: Value in the other file.
        difference: Ratio of the second to the first, or None if a side has too few samples.
        adjusted: Probability after Holm's adjustment over all rows of the comparison, or None.
        outcome: The difference in words.
        weak: Whether one of the rows has a remark.
    """

    scenario: str
    name: str
    unit: str
    better: str
    first: float
    second: float
    difference: Difference | None
    adjusted: float | None
    outcome: str
    weak: bool


@dataclass(frozen=True)
class Comparison:
    """The first file compared with one other file.

    Attributes:
        first: Name of the first file.
        second: Name of the other file.
        rows: Rows that both files have.
        weak_rows: Remarks on these rows, as lines of text.
        unmatched: Rows that only one file has, as lines of text.
    """

    first: str
    second: str
    rows: list[RowComparison]
    weak_rows: list[str]
    unmatched: list[str]


def compare_results(documents: Sequence[tuple[str, dict[str, Any]]]) -> list[Comparison]:
    """Compare the first document with each of the others.

    Args:
        documents: File name and contents of each results file.

    Raises:
        InputError: There are fewer than two files, two models share a name but not their weights, or two files have no row of
            the same work and setup.
    """
    if len(documents) < 2:
        raise InputError("a comparison needs at least two results files")
    (first, base), *others = documents
    return [_compare(first, base, name, other) for name, other in others]


def _compare(first: str, first_document: dict[str, Any], second: str, second_document: dict[str, Any]) -> Comparison:
    _check_weights(first, first_document, second, second_document)
    first_rows, second_rows = _rows_by_key(first, first_document), _rows_by_key(second, second_document)
    shared = [key for key in first_rows if key in second_rows]
    if not shared:
        raise InputError(
            f"{first} and {second} have no measurement of the same work in common: "
            f"{_row_names(first_document)} against {_row_names(second_document)}"
        )
    weak, unmatched = [], []
    for name, rows, others in ((first, first_rows, second_rows), (second, second_rows, first_rows)):
        weak += [f"{name}: {line}" for line in weak_rows([rows[key] for key in shared])]
        only_here = [row for key, row in rows.items() if key not in others]
        for scenario, of_scenario in by_scenario(only_here).items():
            unmatched.append(f"{name}, {scenario}: {', '.join(map(row_name, of_scenario))}")
    pairs = [(first_rows[key], second_rows[key]) for key in shared]
    return Comparison(first, second, _compare_rows(pairs), weak, unmatched)


def _compare_rows(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> list[RowComparison]:
    max_series = max(MIN_SERIES, min(MAX_SERIES, BOOTSTRAP_RUNS // max(len(pairs), 1)))
    differences = [_difference(a, b, max_series) for a, b in pairs]
    adjusted = iter(holm([d.p for d in differences if d is not None]))
    compared = []
    for (a, b), difference in zip(pairs, differences, strict=True):
        if difference is None:
            p, words = None, "too few samples"
        else:
            p = next(adjusted)
            words = outcome(difference, p, a["better"])
        compared.append(
            RowComparison(
                scenario=a["scenario"],
                name=row_name(a),
                unit=a["unit"],
                better=a["better"],
                first=a["value"],
                second=b["value"],
                difference=difference,
                adjusted=p,
                outcome=words,
                weak=bool(a["remarks"] or b["remarks"]),
            )
        )
    return compared


def _check_weights(first: str, first_document: dict[str, Any], second: str, second_document: dict[str, Any]) -> None:
    for model in sorted(set(first_document["models"]) & set(second_document["models"])):
        a, b = first_document["models"][model]["weights"], second_document["models"][model]["weights"]
        if a != b:
            raise InputError(f"{first} and {second} measured different networks by the name {model}: weights {a} and {b}")


def _difference(a: dict[str, Any], b: dict[str, Any], max_series: int) -> Difference | None:
    """The difference of two rows, or None if a side has fewer than three samples."""
    if not a["rounds"] or not b["rounds"]:
        return None
    if min(sum(map(len, a["rounds"])), sum(map(len, b["rounds"]))) < 3:
        return None
    return compare(a["rounds"], b["rounds"], max_series)


def _rows_by_key(name: str, document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows of a document by the text of their work and setup."""
    rows: dict[str, dict[str, Any]] = {}
    for row in document["rows"]:
        setup = {k: row["setup"].get(k) for k in SAME_SETUP}
        key = json.dumps([row["scenario"], row["metric"], row["unit"], row["work"], setup], sort_keys=True)
        if key in rows:
            raise InputError(f"{name} has two rows of the same work: {row['scenario']} {row_name(row)}")
        rows[key] = row
    return rows


def _row_names(document: dict[str, Any]) -> str:
    """The first three rows of a document by name, and the number of the others."""
    names = list(dict.fromkeys(f"{row['scenario']} {row_name(row)}" for row in document["rows"]))
    if not names:
        return "nothing"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
