"""The statistics are what SciPy and hand computation say, and a measured row states its conditions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylert.benchmarks.latency import BUSY_CORES, UNSTABLE_CV, as_json, bench, summarize
from stylert.benchmarks.machine import machine_facts
from stylert.benchmarks.report import write_report
from stylert.runtime.bundle import Bundle
from stylert.runtime.errors import InputError


@given(st.lists(st.floats(1e-4, 10), min_size=2, max_size=200), st.integers(1, 64))
def test_a_row_summarises_its_samples(samples: list[float], batch: int) -> None:
    row = summarize("b", "fp32", batch, False, samples, sum(samples), 0.1, 0.0)
    ordered = np.sort(samples) * 1000
    for q, value in ((50, row.p50_ms), (90, row.p90_ms), (99, row.p99_ms)):
        position = q / 100 * (len(ordered) - 1)
        low, high = ordered[int(np.floor(position))], ordered[int(np.ceil(position))]
        assert value == pytest.approx(low + (high - low) * (position % 1), abs=6e-4)
    assert row.min_ms <= row.p50_ms <= row.p90_ms <= row.p99_ms
    assert row.images_per_s == pytest.approx(batch * len(samples) / sum(samples), rel=1e-3, abs=0.01)
    assert row.runs == len(samples)


def test_unsteady_and_disturbed_runs_are_marked() -> None:
    assert summarize("b", "fp32", 1, False, [0.01] * 50, 0.5, 0.1, 0.0).warnings == []
    unsteady = [0.01, 0.01 * (1 + 4 * UNSTABLE_CV)] * 25
    assert "unstable" in summarize("b", "fp32", 1, False, unsteady, 1, 0.1, 0.0).warnings[0]
    assert "busy" in summarize("b", "fp32", 1, False, [0.01] * 50, 1, 0.1, BUSY_CORES * 2).warnings[0]


def test_a_bench_measures_every_combination_in_its_own_process(bundle: Bundle, tmp_path: Path) -> None:
    rows = bench(bundle, ["onnxruntime"], None, (1, 3), min_seconds=0.05, min_runs=5)
    assert [(r.precision, r.batch) for r in rows] == [("fp32", 1), ("fp32", 3), ("int8", 1), ("int8", 3)]
    for row in rows:
        assert row.runs >= 5
        assert len(row.samples_ms) == row.runs
        assert 10 < row.peak_memory_mib < 4000
    text = json.dumps({"machine": machine_facts(), "latency": as_json(rows)}, allow_nan=False)
    assert json.loads(text)["machine"]["cores"] >= 1


def test_a_batch_below_one_is_refused(bundle: Bundle) -> None:
    with pytest.raises(InputError):
        bench(bundle, batches=(0,))


def test_the_report_stands_alone_and_shows_every_row(bundle: Bundle, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "p.png")
    rows = bench(bundle, ["onnxruntime"], ["int8"], (1,), min_seconds=0.05, min_runs=5)
    results = {
        "schema": 1, "title": "<script>alert(1)</script>", "date": "2026-01-01",
        "model": {"resolution": 16, "parameters": 1000, "macs": 1000}, "machine": machine_facts(), "engines": [],
        "accuracy": [], "latency": as_json(rows), "provenance": {"checkpoint": "x"},
    }  # fmt: skip
    write_report(results, {"a picture": tmp_path / "p.png"}, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<script>" not in page
    assert f"{rows[0].p50_ms:.2f}" in page
    assert "data:image/png;base64," in page
    for outside in ('src="http', 'href="http', "url(http", "<link", "@import"):
        assert outside not in page
