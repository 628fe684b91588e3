"""The GPU suite against a fake clock: it keeps its time, saves after each stage, and can be cut at any minute."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from gpu_suite import DONE, FAILED, RESERVE, SKIPPED, TIMED_OUT, Stage, Suite, dry_stages, gpu_stages, main

from stylert.benchmarks.kernels.results import measured_row, save_results
from stylert.benchmarks.schema import read_results
from stylert.core.roofline import PeakRates

MINUTES = range(1, 15)


class Cut(Exception):
    """The machine is taken away."""


class FakeMachine:
    """Runs stages on a fake clock. A stage writes a row of results in every tenth of its duration.

    Args:
        durations: Seconds that each stage takes.
        cut_at: When the machine is taken away, or None.
        failing: Stages that end with status 1.
    """

    def __init__(self, durations: dict[str, float], cut_at: float | None = None, failing: Sequence[str] = ()) -> None:
        self.durations, self.cut_at, self.failing = durations, cut_at, failing
        self.now = 0.0
        self.completed: list[str] = []

    def clock(self) -> float:
        return self.now

    def run(self, stage: Stage, command: Sequence[str], limit: float) -> int | None:
        begin, duration = self.now, self.durations[stage.name]
        end = begin + min(duration, limit)
        is_cut = self.cut_at is not None and self.cut_at < end
        self.now = self.cut_at if is_cut and self.cut_at is not None else end
        rows = 10 if self.now - begin >= 0.999 * duration else int(10 * (self.now - begin) / duration)
        files = [part for part in command if part.endswith(".part.json")]
        for file in files if rows else []:
            results = [
                measured_row({"kernel": f"{stage.name} {i}"}, "x", "p50", [1.0], 1.0, device="cpu", gpu=None)
                for i in range(rows)
            ]
            save_results(Path(file), stage.name, "kernels.fake", results, PeakRates({"float32": 1.0}, 1.0, "given"))
        if is_cut:
            raise Cut
        if duration > limit:
            return None
        self.completed.append(stage.name)
        return 1 if stage.name in self.failing else 0


def suite_of(out: Path, machine: FakeMachine) -> Suite:
    return Suite(stages_of(out), out, machine.run, machine.clock)


def stages_of(out: Path) -> list[Stage]:
    """Those of a GPU, without the programs that this machine may lack."""
    return [Stage(s.name, s.limit, s.least, s.command) for s in gpu_stages(out)]


def rows_of(out: Path) -> list[str]:
    """The kernels of all rows, each once."""
    if not (out / "results.json").exists():
        return []
    names = [row["work"]["kernel"] for row in read_results(out / "results.json")["rows"]]
    assert len(set(names)) == len(names)
    return names


@pytest.fixture
def durations(rng: np.random.Generator, tmp_path: Path) -> dict[str, float]:
    """Each stage takes from a third of its limit to all of it."""
    return {stage.name: float(stage.limit * rng.uniform(0.33, 1.0)) for stage in gpu_stages(tmp_path)}


def test_the_limits_of_all_stages_fit_the_time(tmp_path: Path) -> None:
    stages = gpu_stages(tmp_path)
    assert sum(stage.limit for stage in stages) <= 840 - RESERVE
    assert [stage.name for stage in stages] == [stage.name for stage in dry_stages(tmp_path)]
    assert all(0 < stage.least <= stage.limit for stage in stages)


def test_all_stages_run_once_and_in_time(tmp_path: Path, durations: dict[str, float]) -> None:
    machine = FakeMachine(durations)
    assert suite_of(tmp_path, machine).run_all(840)
    assert machine.now <= 840
    assert machine.completed == [stage.name for stage in stages_of(tmp_path)]
    assert len(rows_of(tmp_path)) == 50  # of five stages with rows
    again = FakeMachine(durations)
    assert suite_of(tmp_path, again).run_all(840)
    assert again.completed == []


@pytest.mark.parametrize("minute", MINUTES)
def test_a_suite_that_is_cut_at_any_minute_loses_only_the_stage_that_ran(
    minute: int, tmp_path: Path, durations: dict[str, float]
) -> None:
    machine = FakeMachine(durations, cut_at=60.0 * minute)
    with pytest.raises(Cut) if 60 * minute < sum(durations.values()) else pytest.MonkeyPatch.context():
        suite_of(tmp_path, machine).run_all(840)
    state = json.loads((tmp_path / "suite.json").read_text()) if machine.completed else {}
    assert [name for name, stage in state.items() if stage["status"] == DONE] == machine.completed
    before = rows_of(tmp_path)
    rest = FakeMachine(durations)
    assert suite_of(tmp_path, rest).run_all(840)
    assert not set(rest.completed) & set(machine.completed)
    assert set(rest.completed) | set(machine.completed) == set(durations)
    assert set(before) <= set(rows_of(tmp_path))
    assert len(rows_of(tmp_path)) == 50


@pytest.mark.parametrize("minute", MINUTES[::4])
def test_a_suite_with_less_time_ends_in_it_and_has_all_that_was_measured(
    minute: int, tmp_path: Path, durations: dict[str, float]
) -> None:
    machine = FakeMachine(durations)
    complete = suite_of(tmp_path, machine).run_all(60.0 * minute)
    assert machine.now <= 60 * minute - RESERVE or not machine.completed
    assert complete == (len(machine.completed) == len(durations))
    # The rest in a second call.
    rest = FakeMachine(durations)
    assert suite_of(tmp_path, rest).run_all(840)
    assert not set(rest.completed) & set(machine.completed)
    assert len(rows_of(tmp_path)) == 50


def test_a_stage_that_timed_out_is_not_done_and_keeps_the_longest_of_its_results(
    tmp_path: Path, durations: dict[str, float]
) -> None:
    durations = durations | {"generator": 1000.0}  # its limit is 150
    machine = FakeMachine(durations)
    assert not suite_of(tmp_path, machine).run_all(840)
    assert json.loads((tmp_path / "suite.json").read_text())["generator"]["status"] == TIMED_OUT
    assert "generator" not in machine.completed
    assert [name for name in rows_of(tmp_path) if name.startswith("generator ")] == ["generator 0"]
    # A later call runs it again, alone, and a cut there does not lose what was kept.
    machine = FakeMachine(durations, cut_at=10.0)
    with pytest.raises(Cut):
        suite_of(tmp_path, machine).run_all(840)
    machine = FakeMachine(durations | {"generator": 140.0})
    assert suite_of(tmp_path, machine).run_all(840)
    assert machine.completed == ["generator"]
    assert len([name for name in rows_of(tmp_path) if name.startswith("generator ")]) == 10


def test_stages_that_never_ran_come_before_those_that_were_stopped(tmp_path: Path, durations: dict[str, float]) -> None:
    durations = durations | {"compile": 1000.0}
    first = suite_of(tmp_path, FakeMachine(durations))
    assert not first.run_all(300)
    stopped = [name for name, state in first.state.items() if state["status"] == TIMED_OUT]
    assert "compile" in stopped
    rest = FakeMachine(durations | {"compile": 10.0})
    assert suite_of(tmp_path, rest).run_all(840)
    assert rest.completed[-len(stopped) :] == stopped


def test_a_stage_that_failed_is_named_and_the_others_run(tmp_path: Path, durations: dict[str, float]) -> None:
    machine = FakeMachine(durations, failing=["parity"])
    assert not suite_of(tmp_path, machine).run_all(840)
    assert json.loads((tmp_path / "suite.json").read_text())["parity"]["status"] == FAILED
    assert set(machine.completed) == set(durations)
    assert (tmp_path / "stages" / "parity.json").exists()  # its errors


def test_a_stage_whose_program_is_missing_is_skipped(tmp_path: Path) -> None:
    stage = Stage("sanitizer", 80, 40, ("-m", "nothing"), ("a-program-that-is-nowhere",))
    suite = Suite([stage], tmp_path, lambda *arguments: pytest.fail("it ran"))
    assert suite.run_all(840)
    assert suite.state["sanitizer"]["status"] == SKIPPED


def test_the_second_measurement_of_the_network_has_names_of_its_own(tmp_path: Path, durations: dict[str, float]) -> None:
    suite_of(tmp_path, FakeMachine(durations)).run_all(840)
    forms = {row["setup"]["form"]: row["work"]["kernel"] for row in read_results(tmp_path / "results.json")["rows"]}
    assert forms["x, measured tiles"].startswith("tuned ")


def test_a_state_that_is_none_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "suite.json").write_text("[]")
    assert main([str(tmp_path), "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
