"""Interleaved ratios do not change if the whole machine becomes slower or faster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stylert.benchmarks.peers import interleaved
from stylert.benchmarks.peers.candidates import Candidate, Workspace
from stylert.benchmarks.peers.comparison import ratio_lines
from stylert.benchmarks.peers.interleaved import speedup_facts, time_interleaved

PEER_BF16 = Candidate("peer", "f", "openvino", "bf16")
PEER_FP32 = Candidate("peer", "f", "onnxruntime", "fp32")
EAGER = Candidate("peer", "f", "eager", "fp32")
OUR_BF16 = Candidate("ours", "f", "openvino", "bf16")
OUR_INT8 = Candidate("ours", "f", "openvino", "int8")
OUR_ORT_INT8 = Candidate("ours", "f", "onnxruntime", "int8")

PAIRS = {
    "bf16": (PEER_BF16, OUR_BF16),
    "int8": (PEER_BF16, OUR_INT8),
    "ONNX Runtime": (PEER_FP32, OUR_ORT_INT8),
    "eager": (EAGER, OUR_INT8),
}
#: Milliseconds of a call on a calm machine; the candidates that are not listed take 10.
CALM_MS = {PEER_BF16: 20.0, PEER_FP32: 30.0, EAGER: 60.0}


class FakeMachine:
    """Stands for the processes of the candidates. All candidates are three times slower in every third cycle."""

    def __init__(self) -> None:
        self.calls: list[Candidate] = []

    @contextmanager
    def new_process(
        self, name: str, setup: object, candidate: Candidate, workspace: Workspace
    ) -> Iterator[Callable[..., float]]:
        def call(function: object, seconds: float) -> float:
            cycle = len(self.calls) // 6
            self.calls.append(candidate)
            slowdown = 3.0 if cycle % 3 == 1 else 1.0
            return slowdown * CALM_MS.get(candidate, 10.0)

        yield call


def test_a_machine_that_slows_down_changes_no_ratio(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = FakeMachine()
    monkeypatch.setattr(interleaved, "new_process", machine.new_process)
    pairs = time_interleaved(PAIRS, Workspace(tmp_path, tmp_path, tmp_path, 1), cycles=9)
    assert [p.ratio.value for p in pairs] == pytest.approx([2.0, 2.0, 3.0, 6.0])
    assert [(p.ratio.low, p.ratio.high) for p in pairs] == [pytest.approx((r, r)) for r in (2.0, 2.0, 3.0, 6.0)]
    assert machine.calls[6:12] == machine.calls[5::-1]
    facts = speedup_facts(pairs)["int8"]
    assert (facts["cycles"], facts["peer"], facts["ours"]) == (9, "f on openvino bf16", "f on openvino int8")
    assert [line[:24] for line in ratio_lines(pairs)] == [f"{r:.2f} [{r:.2f}, {r:.2f}] times " for r in (2, 2, 3, 6)]


def test_without_pairs_nothing_is_timed(tmp_path: Path) -> None:
    assert time_interleaved({}, Workspace(tmp_path, tmp_path, tmp_path, 1)) == []
