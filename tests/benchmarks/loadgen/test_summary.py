"""The verdict is the one that LoadGen wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from stylert.benchmarks.loadgen.summary import read_verdict
from stylert.core.errors import BackendError

TEXT = """\
SUT name : PySUT
Scenario : Server
Completed samples per second    : 99.50
Result is : {verdict}
  Performance constraints satisfied : NO
  Min duration satisfied : Yes
  Early stopping satisfied: NO
Recommendations:
 * Reduce target QPS to improve latency.

================================================
Additional Stats
================================================
"""


@pytest.mark.parametrize("verdict", ["VALID", "INVALID"])
def test_verdict_value_and_reasons_are_read(tmp_path: Path, verdict: str) -> None:
    (tmp_path / "mlperf_log_summary.txt").write_text(TEXT.format(verdict=verdict))
    found = read_verdict(tmp_path, "server")
    assert (found.verdict, found.is_valid) == (verdict, verdict == "VALID")
    assert (found.metric, found.value) == ("Completed samples per second", 99.5)
    assert found.reasons == (
        "not satisfied: performance constraints satisfied",
        "not satisfied: early stopping satisfied",
        "Reduce target QPS to improve latency.",
    )


@pytest.mark.parametrize("text", [None, "", TEXT.format(verdict="MAYBE"), "Result is : VALID\n"])
def test_a_summary_without_verdict_or_result_is_an_error(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "mlperf_log_summary.txt").write_text(text)
    with pytest.raises(BackendError, match="LoadGen"):
        read_verdict(tmp_path, "server")
