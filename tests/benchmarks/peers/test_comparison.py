"""All candidates run the same network: the textbook forms equal ours, and all images are alike."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import resource
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from stylert.benchmarks.machine.interference import Interference
from stylert.benchmarks.models import Model, user_model
from stylert.benchmarks.peers.candidates import CANDIDATES, Candidate, Workspace, own_precisions, with_precisions, write_latents
from stylert.benchmarks.peers.comparison import (
    MIN_RUNS,
    CandidateResult,
    CandidateRound,
    best_pairs,
    compare,
    main,
    table,
)
from stylert.benchmarks.peers.rows import peer_row
from stylert.benchmarks.peers.runners import load_runner
from stylert.benchmarks.peers.textbook_network import TextbookSynthesis
from stylert.benchmarks.schema import Results, validate
from stylert.core.errors import BackendError
from stylert.export.pipeline import export_bundle
from stylert.models.checkpoint import load_generator
from stylert.runtime.bundle import Bundle


@pytest.mark.parametrize("modulation", ["grouped", "scaled"])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_textbook_forms_equal_the_network(checkpoint: Path, modulation: str, batch: int) -> None:
    synthesis = load_generator(checkpoint).synthesis.double()
    cfg = synthesis.cfg
    ws = torch.randn(batch, cfg.num_ws, cfg.w_dim)  # the network converts ws to float32 itself
    textbook = TextbookSynthesis(synthesis, modulation)(ws.double())  # type: ignore[arg-type]
    expected = load_generator(checkpoint).synthesis(ws, "const")
    assert float((textbook - expected).detach().abs().max()) < 1e-4 * float(expected.detach().abs().max())


@pytest.mark.long
def test_every_candidate_makes_the_same_images(checkpoint: Path, tmp_path: Path) -> None:
    chosen = [c for c in CANDIDATES if not c.engine.startswith("torch.compile") and (c.engine != "nncf" or find_spec("nncf"))]
    bundle = export_bundle(checkpoint, tmp_path / "bundle", ["fp32", "bf16", "int8"])
    workspace = Workspace(checkpoint, bundle.path, tmp_path, threads=1)
    results = compare(workspace, chosen, rounds=1, seconds=0.01, images=2)
    assert [r.candidate for r in results] == chosen
    for r in results:
        assert [len(one.samples_ms) >= MIN_RUNS for one in r.rounds] == [True]
        least = {"fp32": 50, "bf16": 25, "int8": 20}[r.candidate.precision]
        # A peer's own calibration promises no accuracy. It must be the same network, and not noise.
        assert r.psnr_db > (10 if r.candidate.kind == "peer" and r.candidate.precision == "int8" else least), r


def test_a_precision_that_the_bundle_lacks_leaves_out_no_peer() -> None:
    chosen = with_precisions(CANDIDATES, ["fp32"])
    assert [c for c in chosen if c.kind == "peer"] == [c for c in CANDIDATES if c.kind == "peer"]
    assert {c.precision for c in chosen if c.kind == "ours"} == {"fp32"}
    assert own_precisions(chosen) == ("fp32",)
    assert set(own_precisions(CANDIDATES)) == {"fp32", "bf16", "int8"}


QUIET = Interference(seconds=1.0, others=0.0, stolen=0.0, own=1.0, switches=0.0, denied=0.0, thermal=0)


def result(kind: str, engine: str, precision: str, *rounds_ms: list[float]) -> CandidateResult:
    rounds = [CandidateRound(samples, QUIET, 50.0 if i == 0 else float("nan")) for i, samples in enumerate(rounds_ms)]
    return CandidateResult(Candidate(kind, "f", engine, precision), tuple(rounds))


#: Results of an older run, as stylert wrote them.
OLDER = '{"stylert": "0.1.0"}'
RESULTS = [
    result("peer", "onnxruntime", "fp32", [40], [30], [30]),
    result("peer", "eager", "fp32", [60]),
    result("peer", "openvino", "bf16", [25, 24, 90], [20, 1, 20], [20]),
    result("ours", "openvino", "bf16", [1], [10], [12]),
    result("ours", "onnxruntime", "fp32", [11], [11], [11]),
    result("ours", "openvino", "int8", [5]),
    result("ours", "onnxruntime", "int8", [8], [6], [6]),
]


def test_the_best_are_chosen_by_medians_so_that_one_fast_round_changes_nothing() -> None:
    assert RESULTS[2].medians_ms == (25, 20, 20)
    assert RESULTS[2].psnr_db == 50.0
    assert "25.0, 20.0" in table(RESULTS)
    eager, peer, bf16, int8 = (RESULTS[i].candidate for i in (1, 2, 3, 5))
    assert list(best_pairs(RESULTS).values()) == [
        (peer, bf16),
        (peer, int8),
        (RESULTS[0].candidate, RESULTS[6].candidate),
        (eager, int8),
    ]


def test_a_candidate_without_its_library_is_a_line_with_the_install_command() -> None:
    missing = CandidateResult(Candidate("peer", "f", "nncf", "int8"), (), "this needs NNCF: pip install 'stylert[nncf]'")
    lines = table([missing, *RESULTS]).splitlines()
    assert "pip install 'stylert[nncf]'" in lines[-1]
    assert len(lines) == len(RESULTS) + 2
    assert best_pairs([missing, *RESULTS]) == best_pairs(RESULTS)


@pytest.mark.parametrize(("engine", "module"), [("nncf", "nncf"), ("mnn", "MNN")])
def test_a_runner_without_its_library_names_the_install_command(
    checkpoint: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    if engine == "mnn":  # its wheel also holds the converter, which comes first
        monkeypatch.setitem(sys.modules, "_tools", None)
        monkeypatch.setattr("stylert.runtime.backends.mnn_network.subprocess.run", lambda *_, **__: None)
        monkeypatch.setattr("stylert.runtime.backends.mnn._imported", lambda: importlib.import_module("MNN"))
    workspace = Workspace(checkpoint, bundle.path, tmp_path, threads=1)
    write_latents(workspace, 1)
    with pytest.raises(BackendError, match=re.escape(f"pip install 'stylert[{engine}]'")):
        load_runner(Candidate("peer", "scaled", engine, "fp32"), workspace)


def test_a_peer_in_int8_counts_from_the_psnr_that_stylert_promises() -> None:
    fast = result("peer", "nncf", "int8", [1])
    for psnr_db, expected in ((32.9, RESULTS[2].candidate), (33.0, fast.candidate)):
        measured = dataclasses.replace(fast, rounds=(dataclasses.replace(fast.rounds[0], psnr_db=psnr_db),))
        assert best_pairs([measured, *RESULTS])["int8 over the best peer"][0] == expected


def test_a_pair_without_one_of_its_sides_is_left_out() -> None:
    assert list(best_pairs(RESULTS[2:4])) == ["fp32 or bf16 over the best peer"]
    assert best_pairs(RESULTS[:3]) == {}


def test_a_peers_row_has_a_remark_for_each_of_its_weaknesses(bundle: Bundle) -> None:
    steady = [10.0 + 0.01 * (i % 7) for i in range(200)]
    for rounds, busy, words in (
        ([steady, steady], 0.0, []),
        ([steady, [2 * ms for ms in steady]], 0.0, ["calls vary", "last third", "medians differ by 100%"]),
        ([steady, steady], 0.3, ["other programs took 30%"]),
        ([[10.0] * 9, [10.0] * 8], 0.0, ["short: 17 images in 0.17 s"]),
    ):
        interference = dataclasses.replace(QUIET, others=busy)
        measured = CandidateResult(
            Candidate("peer", "grouped", "openvino", "bf16"),
            tuple(CandidateRound(samples, interference, 48.5) for samples in rounds),
        )
        row = peer_row(user_model(bundle.path), measured, None)
        assert (row.value, row.unit, row.scenario, row.setup["form"]) == (measured.ms, "ms", "peer", "grouped")
        assert len(row.remarks) == len(words)
        assert all(word in remark for word, remark in zip(words, row.remarks, strict=True)), row.remarks
        validate(Results("peers", [row], command=[]).document(), "peers")


@pytest.mark.long
def test_the_command_writes_what_it_prints(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "peers.json"
    main(
        [
            "--checkpoint",
            str(checkpoint),
            "--only",
            "grouped on eager fp32,scaled on eager fp32,stylert on onnxruntime int8",
            "--rounds",
            "1",
            "--seconds",
            "0.01",
            "--images",
            "1",
            "--cycles",
            "3",
            "--json",
            str(out),
        ]
    )
    facts = json.loads(out.read_text())
    assert len(facts["results"]) == 3
    assert list(facts["times faster"]) == ["int8 over the best peer", "any precision over PyTorch eager"]
    printed = capsys.readouterr().out
    for r in facts["results"]:
        assert f"{r['ms']:.1f}" in printed
    for what, best in facts["times faster"].items():
        assert best["cycles"] == 3
        assert f"{best['ratio']:.2f} [?, ?] times as fast: {what}" in printed


def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylert.benchmarks.peers.comparison.compare", lambda *_: pytest.fail("it was measured"))
    (tmp_path / "notes").write_text("mine")
    for out, words in ((checkpoint, "is an input"), (tmp_path, "is a folder"), (tmp_path / "notes", "as JSON")):
        with pytest.raises(SystemExit) as e:
            main(["--checkpoint", str(checkpoint), "--json", str(out)])
        assert e.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert words in line


def test_the_results_appear_whole_or_not_at_all(
    bundle: Bundle, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk the older results stay."""
    monkeypatch.setattr("stylert.benchmarks.peers.comparison.compare", lambda *_: RESULTS)
    monkeypatch.setattr("stylert.benchmarks.peers.comparison.time_interleaved", lambda *_, **__: [])
    monkeypatch.setattr("stylert.benchmarks.peers.comparison._model", lambda *_: Model("m", bundle, checkpoint))
    out = tmp_path / "peers.json"
    out.write_text(OLDER)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, limits[1]))
    try:
        with pytest.raises(SystemExit) as e:
            main(["--checkpoint", str(checkpoint), "--json", str(out)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert e.value.code == 2
    assert "File too large" in capsys.readouterr().err
    assert out.read_text() == OLDER
    assert list(tmp_path.iterdir()) == [out]
