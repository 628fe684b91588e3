"""Candidates timed in alternation, for the ratio of one's time to another's.

All candidates are loaded at the same time, each in its own process, and take turns of half a second. The turns of one cycle
meet the same conditions, so the ratio of a cycle does not depend on the speed of a shared host at that time. The result is
the median over the cycles. Every second cycle goes through the candidates backwards.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from stylert.benchmarks.peers.candidates import Candidate, Workspace, read_ws
from stylert.benchmarks.peers.runners import load_runner
from stylert.benchmarks.processes import new_process
from stylert.benchmarks.report.tables import ratio_facts
from stylert.benchmarks.scenarios.measure import timed_calls
from stylert.core.paired_timing import interleaved_times
from stylert.core.statistics import Ratio, median_ratio

CYCLES, SECONDS = 20, 0.5


@dataclass(frozen=True)
class InterleavedPair:
    """One peer and one of ours, timed in alternation.

    Attributes:
        title: Description of the pair.
        peer: The peer.
        ours: The candidate of stylert.
        ratios: Time of the peer over time of ours, for each cycle.
    """

    title: str
    peer: Candidate
    ours: Candidate
    ratios: tuple[float, ...]

    @property
    def ratio(self) -> Ratio:
        """The median over the cycles, with its interval."""
        return median_ratio(self.ratios)


def time_interleaved(
    pairs: Mapping[str, tuple[Candidate, Candidate]],
    workspace: Workspace,
    cycles: int = CYCLES,
    seconds: float = SECONDS,
    log: Callable[[str], None] = lambda _: None,
) -> list[InterleavedPair]:
    """Time all candidates of some pairs in alternation.

    Args:
        pairs: Title to the peer and ours. A candidate may be in several pairs; it is timed once per cycle.
        workspace: The files, with latents written.
        cycles: Number of cycles.
        seconds: Length of a turn.
        log: Called with the names of the candidates.
    """
    candidates = list(dict.fromkeys(candidate for pair in pairs.values() for candidate in pair))
    log(f"interleaved: {', '.join(c.name for c in candidates)}")
    with ExitStack() as stack:
        calls = [stack.enter_context(new_process(c.name, _load, c, workspace)) for c in candidates]
        measures = [partial(call, _median_ms, seconds) for call in calls]
        times = interleaved_times(measures, lambda finished: finished < cycles)
    times_ms = dict(zip(candidates, times, strict=True))
    results = []
    for title, (peer, ours) in pairs.items():
        ratios = tuple(p / o for p, o in zip(times_ms[peer], times_ms[ours], strict=True))
        results.append(InterleavedPair(title, peer, ours, ratios))
    return results


def speedup_facts(pairs: Sequence[InterleavedPair]) -> dict[str, dict[str, Any]]:
    """The entry `times faster` in the conditions of a results file."""
    return {pair.title: ratio_facts(pair.ratio, pair.peer.name, pair.ours.name) for pair in pairs}


# --- in the process of a candidate ----------------------------------------------------------------------------------------

_call: Callable[[], object]


def _load(candidate: Candidate, workspace: Workspace) -> None:
    global _call
    _call = partial(load_runner(candidate, workspace), read_ws(workspace)[:1])
    for _ in range(2):
        _call()


def _median_ms(seconds: float) -> float:
    """Median milliseconds of the calls of one turn. The first call finds cold caches and does not count."""
    _call()
    return statistics.median(timed_calls(_call, seconds))
