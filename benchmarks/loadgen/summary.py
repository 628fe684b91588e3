"""LoadGen's own summary of a test, and the verdict in it. Nothing is judged here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from stylert.core.errors import BackendError, shown_line

#: The files that LoadGen writes into the folder of a test.
LOGS = ("mlperf_log_summary.txt", "mlperf_log_detail.txt", "mlperf_log_accuracy.json", "mlperf_log_trace.json")
SUMMARY = LOGS[0]
#: The line of the summary with the result of each scenario.
RESULTS = {
    "single-stream": r"^(90(?:\.0)?th percentile latency \(ns\)) : (\d+)$",
    "offline": r"^(Samples per second) ?: ([\d.e+]+)$",
    "server": r"^((?:Completed|Scheduled) samples per second) *: ([\d.e+]+)$",
}


@dataclass(frozen=True)
class Verdict:
    """The words of LoadGen about one test.

    Attributes:
        scenario: A key of `RESULTS`.
        verdict: `VALID` or `INVALID`, as LoadGen wrote it.
        metric: LoadGen's name of the result.
        value: The result, in the unit of that name.
        reasons: Lines about constraints that were not satisfied, and LoadGen's recommendations.
    """

    scenario: str
    verdict: str
    metric: str
    value: float
    reasons: tuple[str, ...]

    @property
    def is_valid(self) -> bool:
        return self.verdict == "VALID"


def read_verdict(folder: Path, scenario: str) -> Verdict:
    """Read the summary in the folder of a test.

    Raises:
        BackendError: There is none, or it has no verdict or no result.
    """
    try:
        text = (folder / SUMMARY).read_text(errors="replace", encoding="utf-8")
    except OSError as e:
        raise BackendError(f"LoadGen left no summary in {folder}: {e.strerror or e}") from None
    verdict = re.search(r"^Result is : (VALID|INVALID)$", text, re.M)
    result = re.search(RESULTS[scenario], text, re.M)
    if verdict is None or result is None:
        raise BackendError(f"LoadGen's summary has no verdict or no result: {shown_line(text)}")
    unsatisfied = re.findall(r"^ +(.+?) ?: NO$", text, re.M)
    advice = re.findall(r"^ \* (.+)$", text[verdict.end() : text.find("=====", verdict.end())], re.M)
    reasons = (*(f"not satisfied: {name.strip().lower()}" for name in unsatisfied), *advice)
    return Verdict(scenario, verdict[1], result[1], float(result[2]), reasons)
