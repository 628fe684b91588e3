"""The ratios of the best are of turns: they do not change when the whole machine does."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from stylert.benchmarks.machine.interference import Disturbance
from stylert.benchmarks.peers import interleaved as turns
from stylert.benchmarks.peers.comparison import Candidate, PeerRound, Result, table
from stylert.benchmarks.peers.interleaved import contests, lines, pairs, times_faster

QUIET = Disturbance(seconds=1.0, others=0.0, stolen=0.0, own=1.0, switches=0.0, denied=0.0, thermal=0)


def result(kind: str, engine: str, precision: str, *rounds_ms: list[float]) -> Result:
    rounds = [PeerRound(samples, QUIET, 50.0 if i == 0 else float("nan")) for i, samples in enumerate(rounds_ms)]
    return Result(Candidate(kind, "f", engine, precision), tuple(rounds))


RESULTS = [
    result("peer", "onnxruntime", "fp32", [40], [30], [30]),
    result("peer", "eager", "fp32", [60]),
    result("peer", "openvino", "bf16", [25, 24, 90], [20, 1, 20], [20]),
    result("ours", "openvino", "bf16", [1], [10], [12]),
    result("ours", "onnxruntime", "fp32", [11], [11], [11]),
    result("ours", "openvino", "int8", [5]),
    result("ours", "onnxruntime", "int8", [8], [6], [6]),
]


def test_the_best_are_chosen_by_medians_so_that_one_fast_round_changes_nothing() -> None:
    assert RESULTS[2].medians_ms == (25, 20, 20)
    assert RESULTS[2].psnr_db == 50.0
    assert "25.0, 20.0" in "\n".join(table(RESULTS))
    eager, peer, bf16, int8 = (RESULTS[i].candidate for i in (1, 2, 3, 5))
    assert list(pairs(RESULTS).values()) == [
        (peer, bf16),
        (peer, int8),
        (RESULTS[0].candidate, RESULTS[6].candidate),
        (eager, int8),
    ]
    assert list(pairs(RESULTS[2:4])) == ["fp32 or bf16 over the best peer"]
    assert pairs(RESULTS[:3]) == {}


class OneByOne:
    """Stands for the candidates' processes: one is slow in some cycles, together with all others, and only one turn at a time."""

    calls: ClassVar[list[str]] = []

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> OneByOne:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, function: object, seconds: float) -> OneByOne:
        return self

    def result(self) -> list[float]:
        cycle = len(self.calls) // 6
        self.calls.append(self.name)
        mood = 3.0 if cycle % 3 == 1 else 1.0
        return [mood * {"openvino bf16 peer": 20, "onnxruntime fp32 peer": 30, "eager fp32 peer": 60}.get(self.name, 10)]


def test_a_machine_that_slows_down_changes_no_ratio(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    OneByOne.calls = []
    monkeypatch.setattr(turns, "_loaded", lambda c, *_: OneByOne(f"{c.engine} {c.precision} {c.kind}"))
    found = contests(RESULTS, tmp_path, tmp_path, tmp_path, cycles=9)
    assert [c.ratio.value for c in found] == pytest.approx([2.0, 2.0, 3.0, 6.0])
    assert [(c.ratio.low, c.ratio.high) for c in found] == [pytest.approx((r, r)) for r in (2.0, 2.0, 3.0, 6.0)]
    assert OneByOne.calls[6:12] == OneByOne.calls[5::-1]
    facts = times_faster(found)["int8 over the best peer"]
    assert (facts["cycles"], facts["peer"], facts["ours"]) == (9, "f on openvino bf16", "f on openvino int8")
    assert [line[:24] for line in lines(found)] == [f"{r:.2f} [{r:.2f}, {r:.2f}] times " for r in (2, 2, 3, 6)]


def test_nothing_to_compare_is_no_contest(tmp_path: Path) -> None:
    assert contests(RESULTS[:3], tmp_path, tmp_path, tmp_path) == []
