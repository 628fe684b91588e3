"""Remarks, phases and ratios as text."""

from __future__ import annotations

from typing import Any

from stylert.benchmarks.report.tables import PHASES, phase_cells, ratio_facts, speedup_lines, weak_rows
from stylert.benchmarks.scenarios.measure import bottleneck_remarks
from stylert.core.statistics import Ratio


def row(scenario: str, batch: int, *remarks: str) -> dict[str, Any]:
    work = {"model": "m", "precision": "fp32", "batch": batch}
    return {"scenario": scenario, "work": work, "setup": {"backend": "b"}, "remarks": list(remarks)}


def test_rows_with_equal_remarks_and_remarks_of_one_kind_share_a_line() -> None:
    seen = ("unstable: calls vary by 9%", "unstable: it drifts", "short: 3 images")
    rows = [row("single-stream", 1, *seen), row("offline", 1, *seen), row("offline", 4, seen[1]), row("offline", 8)]
    assert weak_rows(rows) == [
        "m b fp32 ×1 (single-stream, offline): unstable: calls vary by 9%, it drifts; short: 3 images",
        "m b fp32 ×4 (offline): unstable: it drifts",
    ]


def test_a_row_without_remarks_has_no_line() -> None:
    assert weak_rows([row("offline", 1)]) == []


def test_only_rows_with_phases_of_a_gpu_call_are_shown() -> None:
    gpu = row("offline", 4) | {"phases_ms": {"h2d": 0.25, "compute": 3.0, "d2h": 0.5}}
    started = row("cold-start", 1) | {"phases_ms": {"import": 200.0}}
    assert phase_cells([row("offline", 1), started, gpu]) == [["m b fp32 ×4 (offline)", "0.25", "3", "0.5", "–"]]
    assert len(PHASES) == 4


def test_a_row_has_a_remark_if_enqueueing_or_copies_take_longer_than_the_network() -> None:
    assert bottleneck_remarks({}) == []
    assert bottleneck_remarks({"h2d": 0.1, "compute": 1.0, "d2h": 0.2, "enqueue": 1.2}) == []
    (late,) = bottleneck_remarks({"h2d": 0.1, "compute": 1.0, "d2h": 0.2, "enqueue": 1.4})
    assert late == "enqueue-bound: the host takes 1.4 ms to hand over 1.3 ms of work"
    (copies,) = bottleneck_remarks({"h2d": 0.4, "compute": 1.0, "d2h": 0.8})
    assert copies == "transfer-bound: copies take 1.2 ms, the network 1 ms"


def test_a_ratio_is_written_with_its_interval_and_both_candidates() -> None:
    facts: dict[str, Any] = {
        "ratio": 1.5,
        "low": 1.4,
        "high": None,
        "cycles": 5,
        "ours": "stylert on openvino bf16",
        "peer": "scaled on eager fp32",
    }
    assert ratio_facts(Ratio(1.5, 1.4, None, 5), facts["peer"], facts["ours"]) == facts
    assert speedup_lines({"conditions": {"times faster": {"sg2-256, best": facts}}}) == [
        "sg2-256, best: 1.50 [1.40, ?] times as fast, stylert on openvino bf16 against scaled on eager fp32, 5 interleaved cycles"
    ]
    assert speedup_lines({"conditions": {}}) == []
