"""A cold start is measured on a real process, and its stages add up to less than its total."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from stylert.benchmarks.scenarios import cold_start
from stylert.benchmarks.schema import read_results
from stylert.core.errors import BackendError
from stylert.runtime import Bundle


def test_the_stages_of_a_process_add_up_to_less_than_its_total(bundle: Bundle) -> None:
    before = time.perf_counter()
    found = cold_start.cold_start(bundle.path, "onnxruntime", "int8", threads=1)
    outside = 1000 * (time.perf_counter() - before)
    stages = [found.import_ms, found.load_ms, found.first_image_ms, found.next_image_ms]
    assert all(ms > 0 for ms in stages)
    assert sum(stages) < found.total_ms <= outside
    assert found.to_first_image_ms == found.total_ms - found.next_image_ms
    assert found.peak_memory_mib > 10
    assert not found.engine


def test_the_command_prints_a_summary_and_writes_every_run(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cold_start.main([str(bundle.path), "--runs", "2", "--threads", "1", "--json", str(tmp_path / "runs.json")])
    out = capsys.readouterr().out
    assert "first run:" in out
    assert "median of 1 more:" in out
    (row,) = read_results(tmp_path / "runs.json")["rows"]
    assert [len(each) for each in row["rounds"]] == [1, 1]


def test_both_lines_are_read_if_they_come_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold_start, "CHILD", r"print('1 2 3 4\n5 True', flush=True)")
    found = cold_start.cold_start(tmp_path, "onnxruntime", "int8")
    assert (found.next_image_ms, found.peak_memory_mib, found.engine) == (4, 5, True)


def test_a_process_that_fails_is_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="does not exist") as e:
        cold_start.cold_start(tmp_path / "nowhere", "onnxruntime", "int8")
    assert "\n" not in str(e.value)
    with pytest.raises(BackendError, match="does not exist"):  # `run_program` prints it
        cold_start.main([str(tmp_path / "nowhere"), "--runs", "1"])
