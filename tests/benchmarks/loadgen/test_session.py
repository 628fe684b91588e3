"""LoadGen's scenarios on real systems: it gets the right images, its verdict is passed on, and an error never leaves it waiting."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlperf_loadgen")

from stylert.benchmarks.loadgen import session
from stylert.benchmarks.loadgen.kserve_client import RemoteTarget
from stylert.benchmarks.loadgen.session import SCENARIOS, SHARES, LoadEffort, _open, _test, _try, judged
from stylert.benchmarks.loadgen.summary import Verdict
from stylert.benchmarks.loadgen.systems import LocalTarget, System, Way
from stylert.benchmarks.processes import new_process
from stylert.benchmarks.scenarios.measure import PSI
from stylert.core.errors import BackendError, InputError, OutputError
from stylert.runtime.bundle import Bundle
from stylert.runtime.generator import Generator
from tests.runtime.serving.conftest import LOOPS, running, source

QUICK = LoadEffort(seconds=0.2, min_queries=20, p99_ms=5000, server_qps=100, trial_s=0.05)
#: LoadGen keeps every answer in its log.
KEEP_ANSWERS = {"min_duration_ms": 100, "min_query_count": 20, "accuracy_log_probability": 1.0, "server_target_qps": 100}

pytestmark = pytest.mark.timeout(300)


def local(bundle: Bundle, threads: int = 1) -> LocalTarget:
    return LocalTarget(bundle.path, "onnxruntime", "fp32", threads, (1, 3))


def logged_images(target: LocalTarget | RemoteTarget, scenario: str, folder: Path) -> list[tuple[int, bytes]]:
    """The number of each sample and the bytes that LoadGen read for it."""
    folder.mkdir()
    with new_process("a test", _open, target) as call:
        call(_try, 0.05)
        call(_test, scenario, KEEP_ANSWERS, str(folder))
    entries = json.loads((folder / "mlperf_log_accuracy.json").read_text())
    return [(entry["qsl_idx"], bytes.fromhex(entry["data"])) for entry in entries]


def check_images(bundle: Bundle, logged: list[tuple[int, bytes]]) -> None:
    assert len(logged) >= 20
    numbers = sorted({number for number, _ in logged})
    with Generator.load(bundle, threads=1) as g:
        expected = dict(zip(numbers, g(numbers, PSI), strict=True))
    for number, data in logged:
        image = np.frombuffer(data, np.uint8).reshape(expected[number].shape)
        assert np.abs(image.astype(int) - expected[number]).max() <= 1
    assert len({expected[number].tobytes() for number in numbers}) == len(numbers)  # a wrong image would be seen


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("threads", [1, 2])
def test_loadgen_reads_the_image_of_each_sample(bundle: Bundle, tmp_path: Path, scenario: str, threads: int) -> None:
    check_images(bundle, logged_images(local(bundle, threads), scenario, tmp_path / "logs"))


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_loadgen_reads_the_images_that_a_server_sends(bundle: Bundle, tmp_path: Path, scenario: str) -> None:
    with running([source(bundle, "fp32")], api_key="a secret") as server:
        target = RemoteTarget(server.url, None, "a secret", (1, 3))
        check_images(bundle, logged_images(target, scenario, tmp_path / "logs"))


@pytest.mark.slow
def test_the_verdicts_are_those_of_loadgens_summaries(bundle: Bundle, tmp_path: Path) -> None:
    tests = list(judged(local(bundle), SCENARIOS[::-1], QUICK, tmp_path / "out"))
    assert [test.verdict.scenario for test in tests] == list(SCENARIOS)
    for test in tests:
        assert test.logs is not None
        assert test.logs.parent == tmp_path / "out"
        lines = (test.logs / "mlperf_log_summary.txt").read_text().splitlines()
        assert f"Result is : {test.verdict.verdict}" in lines
        (result,) = [line for line in lines if line.startswith(test.verdict.metric)][:1]
        assert float(result.split(":")[1]) == test.verdict.value
        assert not test.is_trial
    server = tests[-1]
    assert server.target_qps == QUICK.server_qps
    assert not server.verdict.is_valid  # some dozens of queries prove nothing about 99 %
    assert "not satisfied: early stopping satisfied" in server.verdict.reasons
    list(judged(local(bundle), ["offline"], QUICK, tmp_path / "out"))  # replaces its own logs
    (tmp_path / "out" / "loadgen-offline" / "mine.txt").write_text("kept")
    with pytest.raises(OutputError, match=r"mine\.txt"):
        list(judged(local(bundle), ["offline"], QUICK, tmp_path / "out"))


@pytest.mark.slow
def test_a_rate_that_no_server_holds_is_searched_to_the_end(bundle: Bundle) -> None:
    effort = LoadEffort(seconds=0.05, min_queries=5, p99_ms=0.0005, trial_s=0.05)
    tests = list(judged(local(bundle), ["server"], effort))
    assert [test.is_trial for test in tests] == [True] * (len(SHARES) - 1) + [False]
    rates = [test.target_qps or 0 for test in tests]
    np.testing.assert_allclose(np.array(rates) / rates[0], np.array(SHARES) / SHARES[0])
    assert all(test.verdict.verdict == "INVALID" for test in tests)


@pytest.mark.slow
def test_the_search_ends_at_the_first_valid_rate(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    read = session.read_verdict
    verdicts = iter(["INVALID", "INVALID", "VALID"])

    def changed(folder: Path, scenario: str) -> Verdict:
        found = read(folder, scenario)
        return Verdict(scenario, next(verdicts), found.metric, found.value, found.reasons)

    monkeypatch.setattr(session, "read_verdict", changed)
    tests = list(judged(local(bundle), ["server"], LoadEffort(seconds=0.05, min_queries=5, trial_s=0.05)))
    assert [test.is_trial for test in tests] == [True, True, False]
    assert tests[-1].verdict.is_valid


@dataclass(frozen=True)
class Broken:
    """A system that fails after some images."""

    images: int

    def open(self) -> System:
        made = 0

        def compute(numbers: Sequence[int]) -> Any:
            nonlocal made
            time.sleep(0.001)  # LoadGen prepares queries by the speed of the system
            made += len(numbers)
            if made > self.images:
                raise BackendError("it broke")
            return np.zeros((len(numbers), 4), np.uint8)

        return System("broken", compute, (Way("one", (compute,), 2),), (compute,), 2)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_an_error_of_a_query_ends_the_test(scenario: str) -> None:
    effort = LoadEffort(seconds=5, min_queries=10**4, server_qps=1000, trial_s=1e-9)
    with pytest.raises(BackendError, match="it broke"):
        list(judged(Broken(30), [scenario], effort))  # type: ignore[arg-type]


def test_an_error_before_the_test_is_raised_as_it_is() -> None:
    with pytest.raises(BackendError, match="it broke"):
        list(judged(Broken(9), ["offline"], QUICK))  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_server_that_stops_ends_the_test(bundle: Bundle) -> None:
    # The context finds the loop of the server closed.
    with suppress(RuntimeError), running([source(bundle, "fp32")], drain_seconds=1) as server:
        target = RemoteTarget(server.url, "small", None, (1,))
        tests = judged(target, ["single-stream", "server"], LoadEffort(seconds=0.1, min_queries=5, server_qps=50, trial_s=0.05))
        assert next(tests).verdict.scenario == "single-stream"
        threading.Timer(0.5, lambda: LOOPS[server].call_soon_threadsafe(server.stop)).start()
        long = LoadEffort(seconds=600, server_qps=50, trial_s=0.05)
        with pytest.raises(BackendError, match=r"connection|answer"):
            list(judged(target, ["server"], long))
        tests.close()  # type: ignore[attr-defined]


def test_mistakes_are_found_before_a_system_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "new_process", lambda *_: pytest.fail("a system was opened"))
    with pytest.raises(InputError, match="single-stream"):
        list(judged(Broken(1), ["build"], QUICK))  # type: ignore[arg-type]
    with pytest.raises(InputError):
        LoadEffort(seconds=0)
    with pytest.raises(InputError):
        LoadEffort(server_qps=0.0)
    monkeypatch.setattr(session, "find_spec", lambda _: None)
    with pytest.raises(BackendError, match=r"pip install 'stylert\[loadgen\]'"):
        list(judged(Broken(1), ["offline"], QUICK))  # type: ignore[arg-type]
