"""The peers of `comparison.py` as rows of the shared schema: the same network as people run it without stylert, in the same run."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stylert.benchmarks.distribution import describe
from stylert.benchmarks.machine.interference import as_values, merge, remarks, too_short
from stylert.benchmarks.models import Model, work_of
from stylert.benchmarks.peers.comparison import CANDIDATES, PRECISIONS, Candidate, Result, compare
from stylert.benchmarks.peers.interleaved import CYCLES, contests, times_faster
from stylert.benchmarks.schema import Results, Row
from stylert.core.errors import InputError

#: Enough for rows that can be compared; the ratios are of turns of their own.
PEER_ROUNDS = 3


def with_peers(
    results: Results,
    models: Sequence[Model],
    threads: int | None,
    rounds: int,
    say: Callable[[str], None],
    candidates: Sequence[Candidate] = CANDIDATES,
    seconds: float = 3.0,
    cycles: int = CYCLES,
) -> Results:
    """`results` with a row for every candidate on every model, and its ratios among the conditions. Raises as `check_peers`."""
    check_peers(models)
    rows: list[Row] = []
    faster: dict[str, Any] = {}
    for model in models:
        assert model.checkpoint is not None
        with tempfile.TemporaryDirectory(prefix="stylert-peers-") as folder:
            files = model.checkpoint, model.bundle.path, Path(folder)
            found = compare(*files, candidates, threads, rounds, seconds, say=say)
            best = times_faster(contests(found, *files, threads, cycles, say=say))
        rows += [peer_row(model, result, threads) for result in found]
        faster |= {f"{model.name}, {what}": facts for what, facts in best.items()}
    return dataclasses.replace(results, rows=[*results.rows, *rows], conditions=results.conditions | {"times faster": faster})


def check_peers(models: Sequence[Model]) -> None:
    """Raises InputError for a model whose checkpoint is not at hand, or whose bundle lacks a precision."""
    for model in models:
        if model.checkpoint is None:
            raise InputError(f"peers are made from the checkpoint, which is not at hand for {model.name}: use --model")
        for precision in PRECISIONS:
            model.bundle.precision(precision)


def peer_row(model: Model, result: Result, threads: int | None) -> Row:
    """The median of the rounds' medians; each round was a process of its own."""
    c, rounds = result.candidate, [r.samples_ms for r in result.rounds]
    distribution, disturbance = describe(rounds), merge([r.disturbance for r in result.rounds])
    return Row(
        "peer",
        work_of(model.name, model.bundle) | {"precision": c.precision, "batch": 1},
        {"backend": c.engine, "form": c.form, "threads": threads},
        "latency",
        "ms",
        "lower",
        result.ms,
        rounds,
        distribution,
        remarks(distribution, disturbance) + too_short(distribution.runs, sum(map(sum, rounds)) / 1000),
        disturbance=as_values(disturbance),
        details={"kind": c.kind, "psnr_db": result.psnr_db},
    )
