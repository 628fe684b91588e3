"""The best of each side once more, in turns of half a second, with all of them loaded at the same time.

A shared host may be twice as fast in one minute as in the next, and rounds of several seconds fall into different minutes. A
cycle of short turns meets the host in one mood, so the ratio within a cycle says how two candidates differ, and the median over
the cycles how they differ whatever the mood. Every second cycle goes through them backwards.
"""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from stylert.benchmarks.peers.comparison import Candidate, Result, latents, runner
from stylert.benchmarks.report.tables import ratio_facts
from stylert.benchmarks.scenarios.measure import timed_calls
from stylert.core.host import usable_cores
from stylert.core.statistics import Ratio, median_ratio

CYCLES, SECONDS = 20, 0.5


@dataclass(frozen=True)
class Contest:
    """How many times as long `peer` takes as `ours`, cycle after cycle."""

    what: str
    peer: Candidate
    ours: Candidate
    ratios: tuple[float, ...]

    @property
    def ratio(self) -> Ratio:
        return median_ratio(self.ratios)


def pairs(results: Sequence[Result]) -> dict[str, tuple[Candidate, Candidate]]:
    """The best peer and the best of ours by their rounds: without int8, int8 against every peer, on ONNX Runtime alone, and
    what is fastest against what everybody starts from.

    Pairs of which a side was not measured are left out.
    """

    def best(kind: str, *precisions: str, engine: str | None = None) -> Candidate | None:
        found = [r for r in results if r.candidate.kind == kind and r.candidate.precision in precisions]
        found = [r for r in found if engine in (None, r.candidate.engine)]
        return min(found, key=lambda r: r.ms).candidate if found else None

    found = {
        "fp32 or bf16 over the best peer": (best("peer", "fp32", "bf16"), best("ours", "fp32", "bf16")),
        "int8 over the best peer": (best("peer", "fp32", "bf16"), best("ours", "int8")),
        "any precision on ONNX Runtime over the plain export there": (
            best("peer", "fp32", engine="onnxruntime"),
            best("ours", "fp32", "int8", engine="onnxruntime"),
        ),
        "any precision over PyTorch eager": (best("peer", "fp32", engine="eager"), best("ours", "fp32", "bf16", "int8")),
    }
    return {what: (peer, ours) for what, (peer, ours) in found.items() if peer is not None and ours is not None}


def contests(
    results: Sequence[Result],
    checkpoint: Path,
    bundle: Path,
    folder: Path,
    threads: int | None = None,
    cycles: int = CYCLES,
    seconds: float = SECONDS,
    say: Callable[[str], None] = lambda _: None,
) -> list[Contest]:
    """Every pair of `pairs(results)` in turns. `folder` is the one in which `peers.compare` has worked."""
    chosen, threads = pairs(results), threads or usable_cores()
    names = list(dict.fromkeys(c for pair in chosen.values() for c in pair))
    say(f"in turns: {', '.join(c.name for c in names)}")
    medians: dict[Candidate, list[float]] = {c: [] for c in names}
    with ExitStack() as stack:
        pools = {c: stack.enter_context(_loaded(c, checkpoint, bundle, folder, threads)) for c in names}
        for candidate in [c for cycle in range(cycles) for c in names[:: -1 if cycle % 2 else 1]]:
            medians[candidate].append(statistics.median(pools[candidate].submit(_turn, seconds).result()))
    return [
        Contest(what, peer, ours, tuple(t / o for t, o in zip(medians[peer], medians[ours], strict=True)))
        for what, (peer, ours) in chosen.items()
    ]


def times_faster(found: Sequence[Contest]) -> dict[str, dict[str, Any]]:
    """As conditions of a benchmark's document."""
    return {c.what: ratio_facts(c.ratio, c.peer.name, c.ours.name) for c in found}


def lines(found: Sequence[Contest]) -> Iterator[str]:
    """A line for each, for people."""
    for c in found:
        yield f"{c.ratio} times as fast: {c.what} ({c.ours.name} against {c.peer.name})"


# --- in a candidate's own process ---------------------------------------------------------------------------------------

_run: Callable[[], object]


def _loaded(candidate: Candidate, checkpoint: Path, bundle: Path, folder: Path, threads: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, _load, (candidate, checkpoint, bundle, folder, threads))


def _load(candidate: Candidate, checkpoint: Path, bundle: Path, folder: Path, threads: int) -> None:
    global _run
    _run = partial(runner(candidate, checkpoint, bundle, folder, threads), latents(folder)[:1])
    for _ in range(2):
        _run()


def _turn(seconds: float) -> list[float]:
    """Milliseconds of calls that take `seconds` together, one at least. The first finds its caches cold and is not counted."""
    _run()
    return timed_calls(_run, seconds)
