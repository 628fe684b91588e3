"""What speaks against a row is said once."""

from __future__ import annotations

from typing import Any

from stylert.benchmarks.tables import doubts


def row(scenario: str, batch: int, *remarks: str) -> dict[str, Any]:
    work = {"model": "m", "precision": "fp32", "batch": batch}
    return {"scenario": scenario, "work": work, "setup": {"backend": "b"}, "remarks": list(remarks)}


def test_rows_of_one_measurement_and_remarks_of_one_kind_stand_together() -> None:
    seen = ("unstable: calls vary by 9%", "unstable: it drifts", "short: 3 images")
    rows = [row("single-stream", 1, *seen), row("offline", 1, *seen), row("offline", 4, seen[1]), row("offline", 8)]
    assert doubts(rows) == [
        "m b fp32 ×1 (single-stream, offline): unstable: calls vary by 9%, it drifts; short: 3 images",
        "m b fp32 ×4 (offline): unstable: it drifts",
    ]


def test_nothing_speaks_against_good_rows() -> None:
    assert doubts([row("offline", 1)]) == []
