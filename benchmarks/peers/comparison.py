"""stylert and its peers compared: the same network, inputs, threads and process conditions, in one run.

    python -m stylert.benchmarks.peers --model sg2-256 --json peers.json

`stylert bench --model sg2-256 --peers` measures the same beside the scenarios.

Every candidate runs in a process of its own, in several rounds that go through all candidates. Its time is the median of the
rounds' medians. Its accuracy is the PSNR to stylert's float32 images on ONNX Runtime. The ratios between the best candidates
are measured separately, in alternation (`interleaved.py`).
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stylert.benchmarks.machine.facts import machine_facts
from stylert.benchmarks.machine.interference import Interference, as_json_values, watch
from stylert.benchmarks.models import Model, standard_model
from stylert.benchmarks.peers.candidates import (
    BACKENDS,
    CANDIDATES,
    Candidate,
    Workspace,
    own_precisions,
    read_references,
    read_ws,
    write_latents,
)
from stylert.benchmarks.peers.interleaved import CYCLES, InterleavedPair, speedup_facts, time_interleaved
from stylert.benchmarks.peers.runners import load_runner
from stylert.benchmarks.processes import new_process
from stylert.benchmarks.scenarios.measure import timed_calls
from stylert.benchmarks.standard_networks import STYLEGAN2_NAMES
from stylert.core.errors import BackendError, StylertError, printable
from stylert.core.files.outputs import check_output, write_json
from stylert.core.files.temporary import temporary_folder
from stylert.core.machine.host import usable_cores
from stylert.core.text_table import aligned_columns
from stylert.runtime.build_options import check_threads

#: Least number of calls of a candidate in a round, however slow it is.
MIN_RUNS = 5


@dataclass(frozen=True)
class CandidateRound:
    """Measurements of one process.

    Attributes:
        samples_ms: Milliseconds of each call.
        interference: Activity of the machine during the calls.
        psnr_db: Mean PSNR to the reference images, or nan if it was not measured.
    """

    samples_ms: list[float]
    interference: Interference
    psnr_db: float


@dataclass(frozen=True)
class CandidateResult:
    """All rounds of a candidate.

    Attributes:
        candidate: The candidate.
        rounds: Its rounds. Empty if it does not run here.
        unavailable_reason: Why it does not run here, in one line. For a missing library, the command that installs it.
    """

    candidate: Candidate
    rounds: tuple[CandidateRound, ...]
    unavailable_reason: str = ""

    @property
    def medians_ms(self) -> tuple[float, ...]:
        """Median time of one image in each round."""
        return tuple(statistics.median(r.samples_ms) for r in self.rounds)

    @property
    def ms(self) -> float:
        """Median of the rounds' medians. One unusually fast round of a shared host does not change it."""
        return statistics.median(self.medians_ms)

    @property
    def psnr_db(self) -> float:
        """PSNR of the first round. The other rounds make the same images and do not measure it."""
        return self.rounds[0].psnr_db


def compare(
    workspace: Workspace,
    candidates: Sequence[Candidate] = CANDIDATES,
    rounds: int = 2,
    seconds: float = 3.0,
    images: int = 8,
    log: Callable[[str], None] = lambda _: None,
) -> list[CandidateResult]:
    """Measure every candidate at batch 1.

    Args:
        workspace: The files. Latents, reference images and exports are written to its folder.
        candidates: What to measure.
        rounds: Number of processes per candidate.
        seconds: Least time of the calls in a round.
        images: Number of images for the accuracy.
        log: Called with a line about each step.
    """
    write_latents(workspace, images)
    unavailable: dict[Candidate, str] = {}
    measured: dict[Candidate, list[CandidateRound]] = {c: [] for c in candidates}
    for i in range(rounds):
        for candidate in candidates:
            if candidate in unavailable:
                continue
            log(f"round {i + 1} of {rounds}: {candidate.name}")
            try:
                with new_process(candidate.name) as call:
                    measured[candidate].append(call(_measure_round, candidate, workspace, seconds, images if i == 0 else 0))
            except BackendError as e:
                unavailable[candidate] = str(e)
                log(f"{candidate.name} is left out: {e}")
    return [CandidateResult(c, tuple(measured[c]) if c not in unavailable else (), unavailable.get(c, "")) for c in candidates]


def best_pairs(results: Sequence[CandidateResult]) -> dict[str, tuple[Candidate, Candidate]]:
    """Title to the best peer and the best of ours, for several choices of precisions and engines.

    A pair is left out if one of its sides was not measured. A peer in int8 counts from the PSNR on that stylert promises.
    """
    from stylert.export.pipeline import MIN_PSNR_DB

    least_db = MIN_PSNR_DB["int8"]

    def best(kind: str, *precisions: str, engine: str | None = None) -> Candidate | None:
        eligible = [
            r
            for r in results
            if r.rounds
            and r.candidate.kind == kind
            and (r.candidate.precision != "int8" or kind == "ours" or r.psnr_db >= least_db)
            and r.candidate.precision in precisions
            and (engine is None or r.candidate.engine == engine)
        ]
        return min(eligible, key=lambda r: r.ms).candidate if eligible else None

    pairs = {
        "fp32 or bf16 over the best peer": (best("peer", "fp32", "bf16"), best("ours", "fp32", "bf16")),
        "int8 over the best peer": (best("peer", "fp32", "bf16", "int8"), best("ours", "int8")),
        "any precision on ONNX Runtime over the plain export there": (
            best("peer", "fp32", engine="onnxruntime"),
            best("ours", "fp32", "int8", engine="onnxruntime"),
        ),
        "fp32 over the plain export on MNN": (best("peer", "fp32", engine="mnn"), best("ours", "fp32")),
        "any precision over PyTorch eager": (best("peer", "fp32", engine="eager"), best("ours", "fp32", "bf16", "int8")),
    }
    return {title: (peer, ours) for title, (peer, ours) in pairs.items() if peer is not None and ours is not None}


def table(results: Sequence[CandidateResult]) -> str:
    """A text table of the candidates, the fastest one first. Those that do not run here come last, with the reason."""
    rows = [["form", "engine", "precision", "ms", "PSNR dB", "rounds"]]
    for result in sorted((r for r in results if r.rounds), key=lambda r: r.ms):
        c = result.candidate
        rounds = ", ".join(f"{ms:.1f}" for ms in result.medians_ms)
        rows.append([c.form, c.engine, c.precision, f"{result.ms:.1f}", f"{result.psnr_db:.2f}", rounds])
    for result in results:
        if not result.rounds:
            c = result.candidate
            rows.append([c.form, c.engine, c.precision, "–", "–", result.unavailable_reason])
    return aligned_columns(rows)


def ratio_lines(pairs: Sequence[InterleavedPair]) -> list[str]:
    """A line of text for each pair."""
    return [f"{pair.ratio} times as fast: {pair.title} ({pair.ours.name} against {pair.peer.name})" for pair in pairs]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: `python -m stylert.benchmarks.peers`. A mistake of the user is one line, and exit status 2."""
    options = _parse(arguments)
    try:
        check_output(options.json, "JSON", (options.checkpoint,))
        check_threads(options.threads)
        _run(options)
    except StylertError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        sys.exit(2)


def _run(options: argparse.Namespace) -> None:
    """Measure, print the table and the ratios, and write them to a file."""
    log = partial(print, flush=True)
    chosen = [c for c in CANDIDATES if not options.only or any(part in c.name for part in options.only.split(","))]
    with temporary_folder("peers") as folder:
        log("export")
        model = _model(options, own_precisions(chosen), folder)
        assert model.checkpoint is not None
        workspace = Workspace(model.checkpoint, model.bundle.path, folder, options.threads or usable_cores())
        results = compare(workspace, chosen, options.rounds, options.seconds, options.images, log)
        pairs = time_interleaved(best_pairs(results), workspace, options.cycles, log=log)
    print("\n".join([table(results), *ratio_lines(pairs)]))
    if options.json:
        document = {
            "model": str(options.checkpoint or options.model),
            "machine": machine_facts(),
            "times faster": speedup_facts(pairs),
            "results": [_json_values(r) for r in results if r.rounds],
            "not measured": {r.candidate.name: r.unavailable_reason for r in results if not r.rounds},
        }
        write_json(options.json, document)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stylert.benchmarks.peers", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--model", choices=STYLEGAN2_NAMES, default="sg2-256", help="a standard model: config F, seeded random weights"
    )
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint of your own instead")
    parser.add_argument("--threads", type=int, help="threads of every candidate; default: all cores")
    parser.add_argument("--rounds", type=int, default=2, help="processes per candidate; default: 2")
    parser.add_argument("--seconds", type=float, default=3.0, help="least time per candidate and round; default: 3")
    parser.add_argument("--images", type=int, default=8, help="images for the accuracy; default: 8")
    parser.add_argument("--only", default="", help="parts of the candidates' names, comma-separated; default: all")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    parser.add_argument("--cycles", type=int, default=CYCLES, help=f"cycles of the interleaved timing; default: {CYCLES}")
    return parser.parse_args(arguments)


def _model(options: argparse.Namespace, precisions: Sequence[str], folder: Path) -> Model:
    """The standard model, or the given checkpoint with its bundle exported into the folder."""
    from stylert.export.pipeline import export_bundle

    if options.checkpoint is None:
        return standard_model(options.model, precisions)
    bundle = export_bundle(options.checkpoint, folder / "bundle", precisions, backends=BACKENDS)
    return Model(options.checkpoint.stem, bundle, options.checkpoint)


def _measure_round(candidate: Candidate, workspace: Workspace, seconds: float, images: int) -> CandidateRound:
    """One round in this process, with the PSNR over some images (0 for none)."""
    ws, run = read_ws(workspace), load_runner(candidate, workspace)
    psnr_db = _mean_psnr(run, ws, read_references(workspace)[:images]) if images else float("nan")
    for _ in range(2):
        run(ws[:1])
    with watch() as watched:
        samples_ms = timed_calls(partial(run, ws[:1]), seconds, MIN_RUNS)
    assert watched.interference is not None
    return CandidateRound(samples_ms, watched.interference, round(psnr_db, 2))


def _mean_psnr(run: Callable[[np.ndarray], np.ndarray], ws: np.ndarray, references: np.ndarray) -> float:
    from stylert.core.images.grids import as_uint8
    from stylert.core.images.similarity import psnr

    images = [as_uint8(run(ws[i : i + 1]))[0] for i in range(len(references))]
    return float(np.mean([psnr(image, reference) for image, reference in zip(images, references, strict=True)]))


def _json_values(result: CandidateResult) -> dict[str, Any]:
    rounds = [
        {
            "samples_ms": r.samples_ms,
            "disturbance": as_json_values(r.interference),
            "psnr_db": None if math.isnan(r.psnr_db) else r.psnr_db,
        }
        for r in result.rounds
    ]
    return {
        "candidate": asdict(result.candidate),
        "rounds": rounds,
        "ms": result.ms,
        "medians_ms": result.medians_ms,
    }
