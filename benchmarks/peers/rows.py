"""Stylert and its peers as rows of a results file, for `stylert bench --peers`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from stylert.benchmarks.machine.interference import (
    as_json_values,
    instability_remarks,
    merge_interference,
    sample_size_remarks,
)
from stylert.benchmarks.models import Model, model_work
from stylert.benchmarks.peers.candidates import CANDIDATES, Candidate, Workspace, with_precisions
from stylert.benchmarks.peers.comparison import CandidateResult, best_pairs, compare
from stylert.benchmarks.peers.interleaved import CYCLES, speedup_facts, time_interleaved
from stylert.benchmarks.sample_statistics import describe
from stylert.benchmarks.schema import Results, Row
from stylert.core.errors import InputError
from stylert.core.files.temporary import temporary_folder
from stylert.core.machine.host import usable_cores

#: Enough rounds for rows that can be compared. The ratios have cycles of their own.
PEER_ROUNDS = 3


def with_peers(
    results: Results,
    models: Sequence[Model],
    threads: int | None,
    rounds: int,
    log: Callable[[str], None],
    candidates: Sequence[Candidate] = CANDIDATES,
    seconds: float = 3.0,
    cycles: int = CYCLES,
) -> Results:
    """Measure every candidate on every model and add the rows, and the ratios of the best candidates, to the results.

    Args:
        results: The results so far.
        models: Models with a checkpoint.
        threads: Threads of every candidate, or None for all cores.
        rounds: Number of processes per candidate.
        log: Called with a line about each step.
        candidates: What to measure. Those of stylert in a precision that a model lacks are left out.
        seconds: Least time per candidate and round.
        cycles: Number of cycles of the interleaved timing.

    Raises:
        InputError: As `check_peers`.
    """
    check_peers(models)
    rows: list[Row] = []
    speedups: dict[str, Any] = {}
    unavailable: dict[str, str] = {}
    for model in models:
        assert model.checkpoint is not None
        with temporary_folder("peers") as folder:
            workspace = Workspace(model.checkpoint, model.bundle.path, folder, threads or usable_cores())
            measured = compare(workspace, with_precisions(candidates, model.bundle.precisions), rounds, seconds, log=log)
            pairs = time_interleaved(best_pairs(measured), workspace, cycles, log=log)
        rows += [peer_row(model, result, threads) for result in measured if result.rounds]
        unavailable |= {r.candidate.name: r.unavailable_reason for r in measured if not r.rounds}
        speedups |= {f"{model.name}, {title}": facts for title, facts in speedup_facts(pairs).items()}
    conditions = results.conditions | {"times faster": speedups, "peers not measured": unavailable}
    return dataclasses.replace(results, rows=[*results.rows, *rows], conditions=conditions)


def check_peers(models: Sequence[Model]) -> None:
    """Check that the peers of some models can be made.

    Raises:
        InputError: A model has no checkpoint.
    """
    for model in models:
        if model.checkpoint is None:
            raise InputError(f"peers are made from the checkpoint, and {model.name} has none here: use --model")


def peer_row(model: Model, result: CandidateResult, threads: int | None) -> Row:
    """The row of a candidate. Its value is the median of the rounds' medians."""
    candidate, rounds = result.candidate, [r.samples_ms for r in result.rounds]
    distribution = describe(rounds)
    interference = merge_interference([r.interference for r in result.rounds])
    seconds = sum(map(sum, rounds)) / 1000
    return Row(
        "peer",
        model_work(model.name, model.bundle) | {"precision": candidate.precision, "batch": 1},
        {"backend": candidate.engine, "form": candidate.form, "threads": threads},
        "latency",
        "ms",
        "lower",
        result.ms,
        rounds,
        distribution,
        instability_remarks(distribution, interference) + sample_size_remarks(distribution.runs, seconds),
        disturbance=as_json_values(interference),
        details={"kind": candidate.kind, "psnr_db": result.psnr_db},
    )
