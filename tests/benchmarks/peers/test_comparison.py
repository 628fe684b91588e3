"""The peers run the same network: the textbook forms equal ours, and every candidate's images are the same picture."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
import torch

from stylert.benchmarks.machine.interference import Disturbance
from stylert.benchmarks.models import own_model
from stylert.benchmarks.peers.comparison import CANDIDATES, LEAST_RUNS, Candidate, PeerRound, Result, compare, main
from stylert.benchmarks.peers.rows import peer_row
from stylert.benchmarks.peers.textbook_network import PlainSynthesis
from stylert.benchmarks.schema import Results, validate
from stylert.benchmarks.standard import NAMES, standard_weights
from stylert.core.errors import InputError
from stylert.export.pipeline import export_bundle
from stylert.models.checkpoint import generator_module, load_generator
from stylert.runtime.bundle import Bundle


@pytest.mark.parametrize("modulation", ["grouped", "scaled"])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_textbook_forms_equal_the_network(checkpoint: Path, modulation: str, batch: int) -> None:
    synthesis = load_generator(checkpoint).synthesis.double()
    cfg = synthesis.cfg
    ws = torch.randn(batch, cfg.num_ws, cfg.w_dim)  # float32 at the network's door
    plain = PlainSynthesis(synthesis, modulation)(ws.double())  # type: ignore[arg-type]
    expected = load_generator(checkpoint).synthesis(ws, "const")
    assert float((plain - expected).detach().abs().max()) < 1e-4 * float(expected.detach().abs().max())


@pytest.mark.slow
def test_every_candidate_makes_the_same_images(checkpoint: Path, tmp_path: Path) -> None:
    chosen = [c for c in CANDIDATES if c.engine != "torch.compile"]
    made = export_bundle(checkpoint, tmp_path / "bundle", ["fp32", "bf16", "int8"])
    results = compare(checkpoint, made.path, tmp_path, chosen, threads=1, rounds=1, seconds=0.01, images=2)
    assert [r.candidate for r in results] == chosen
    for r in results:
        assert [len(found.samples_ms) >= LEAST_RUNS for found in r.rounds] == [True]
        assert r.psnr_db > {"fp32": 50, "bf16": 25, "int8": 20}[r.candidate.precision], r


QUIET = Disturbance(seconds=1.0, others=0.0, stolen=0.0, own=1.0, switches=0.0, denied=0.0, thermal=0)


def test_a_peer_is_a_row_that_says_what_is_weak_about_it(bundle: Bundle) -> None:
    steady = [10.0 + 0.01 * (i % 7) for i in range(200)]
    for rounds, busy, words in (
        ([steady, steady], 0.0, []),
        ([steady, [2 * ms for ms in steady]], 0.0, ["calls vary", "last third", "medians differ by 100%"]),
        ([steady, steady], 0.3, ["other programs took 30%"]),
        ([[10.0] * 9, [10.0] * 8], 0.0, ["short: 17 images in 0.17 s"]),
    ):
        disturbance = dataclasses.replace(QUIET, others=busy)
        found = Result(
            Candidate("peer", "grouped", "openvino", "bf16"), tuple(PeerRound(samples, disturbance, 48.5) for samples in rounds)
        )
        row = peer_row(own_model(bundle.path), found, None)
        assert (row.value, row.unit, row.scenario, row.setup["form"]) == (found.ms, "ms", "peer", "grouped")
        assert len(row.remarks) == len(words)
        assert all(word in remark for word, remark in zip(words, row.remarks, strict=True)), row.remarks
        validate(Results("peers", [row], command=[]).document(), "peers")


def test_the_command_writes_what_it_prints(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "peers.json"
    main(
        [
            "--checkpoint",
            str(checkpoint),
            "--only",
            "eager,stylert on onnxruntime int8",
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


def test_standard_models_are_the_same_everywhere_and_alive() -> None:
    weights = standard_weights("sg2-256")
    digest = hashlib.sha256(b"".join(k.encode() + v.tobytes() for k, v in sorted(weights.arrays.items()))).hexdigest()
    assert digest == "1c21b99746dfb1ba4a5433a8f896c5da4efc0aa1b70450352ee70db7f8c57e18", (
        "a change of these weights makes every earlier measurement of them incomparable"
    )
    image = generator_module(weights)(torch.randn(1, 512)).detach()
    assert 0.1 < float(image.std()) < 10
    with pytest.raises(InputError, match="sg2-256"):
        standard_weights("sg2-13")
    assert NAMES == ("sg2-256", "sg2-512", "sg2-1024")
