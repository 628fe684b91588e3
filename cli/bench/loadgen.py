"""Runs `stylert bench --loadgen`: a bundle or a running server, judged by MLPerf's LoadGen."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stylert.benchmarks.loadgen.kserve_client import RemoteTarget
from stylert.benchmarks.loadgen.session import SCENARIOS, Judged, LoadEffort, judged
from stylert.benchmarks.loadgen.systems import LocalTarget
from stylert.cli.console import print_line, print_note, print_table, progress
from stylert.core.errors import InputError
from stylert.core.files.outputs import check_output, write_json

#: The API key of the server, as `stylert serve` reads it.
KEY_VARIABLE = "STYLERT_API_KEY"


def judge(
    bundle: Path | None,
    model: str | None,
    url: str | None,
    systems: Mapping[str, Any],
    scenarios: Sequence[str] | None,
    effort: Mapping[str, Any],
    out: Path | None,
    json: Path | None,
) -> bool:
    """Run LoadGen on what the options name, print its verdicts, and return whether all are VALID.

    Args:
        bundle: A bundle, unless `model` or `url` is given.
        model: A standard model, or a model of the server.
        url: A running server.
        systems: `backends`, `precisions`, `threads` and `batches`, as they were given.
        scenarios: Some of LoadGen's; None for all three.
        effort: Fields of `LoadEffort`. A None stands for the default.
        out: Folder for LoadGen's logs.
        json: File for the verdicts.

    Raises:
        StylertError: Options do not fit together, LoadGen is missing, or the system fails.
    """
    check_output(json, "JSON")
    target: LocalTarget | RemoteTarget
    if url is not None:
        if bundle is not None or systems["backends"] or systems["precisions"] or systems["threads"]:
            raise InputError("--url names what is tested: leave out the bundle, --backend, --precision and --threads")
        target = RemoteTarget(url, model, os.environ.get(KEY_VARIABLE) or None, tuple(systems["batches"]))
    else:
        for name in ("backends", "precisions"):
            if systems[name] is not None and len(systems[name]) > 1:
                raise InputError(f"LoadGen tests one system at a time: give one of the {name}")
        backend, precision = (systems["backends"] or ["auto"])[0], (systems["precisions"] or [None])[0]
        folder = _bundle(bundle, model, precision).absolute()
        target = LocalTarget(folder, backend, precision, systems["threads"], tuple(systems["batches"]))
    given = {name: value for name, value in effort.items() if value is not None}
    return run_loadgen(target, scenarios or SCENARIOS, LoadEffort(**given), out, json)


def _bundle(bundle: Path | None, model: str | None, precision: str | None) -> Path:
    """The folder of the bundle, or that of a standard model in the cache."""
    if (bundle is None) == (model is None):
        raise InputError("name a bundle, a standard model with --model sg2-256, or a server with --url")
    if bundle is not None:
        return bundle
    from stylert.benchmarks.models import default_precisions, standard_model

    with progress() as report:
        return standard_model(
            str(model), default_precisions([str(model)]) if precision is None else [precision], report
        ).bundle.path


def run_loadgen(
    target: LocalTarget | RemoteTarget, scenarios: Sequence[str], effort: LoadEffort, out: Path | None, json: Path | None
) -> bool:
    """Run LoadGen, print its verdicts, and return whether all are VALID. Arguments and errors are those of `judged`."""
    tests: list[Judged] = []
    for test in judged(target, scenarios, effort, out, print_note):
        if test.is_trial:
            print_note(f"LoadGen: INVALID at {test.target_qps:.4g}/s")
        else:
            tests.append(test)
    print_table(
        f"LoadGen's verdicts: {tests[0].system}",
        ["<scenario", "<verdict", "<result", "", "<"],
        [(test.verdict.scenario, test.verdict.verdict, test.verdict.metric, *_shown(test)) for test in tests],
    )
    for test in tests:
        for reason in () if test.verdict.is_valid else test.verdict.reasons:
            print_line(f"{test.verdict.scenario}: {reason}", style="yellow")
    print_line("measured with MLPerf's LoadGen; this is no submission to MLPerf")
    if out is not None:
        print_line(f"LoadGen's logs: {', '.join(str(test.logs) for test in tests)}")
    if json is not None:
        write_json(json, {"loadgen": [_document(test) for test in tests]})
    return all(test.verdict.is_valid for test in tests)


def _shown(test: Judged) -> tuple[str, str]:
    """The value of a result, and a remark."""
    if test.verdict.scenario == "single-stream":
        return f"{test.verdict.value:.0f}", f"{test.verdict.value / 1e6:.3f} ms"
    remark = test.way if test.target_qps is None else f"at {test.target_qps:.4g} requests/s"
    return f"{test.verdict.value:.2f}", remark


def _document(test: Judged) -> dict[str, object]:
    return {
        "system": test.system,
        "scenario": test.verdict.scenario,
        "verdict": test.verdict.verdict,
        "metric": test.verdict.metric,
        "value": test.verdict.value,
        "target_qps": test.target_qps,
        "reasons": list(test.verdict.reasons),
    }
