"""The plain form of a restoration network makes the same images, and the comparison measures both."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from stylert.benchmarks.peers import restoration
from stylert.benchmarks.peers.textbook_restoration import textbook_form
from stylert.core.statistics import Ratio
from stylert.export.restoration.verify import torch_network
from stylert.models.restoration.checkpoints import read_restorer
from tests.models.restoration.public_files import public_file


@pytest.mark.parametrize("network", ["gfpgan", "gpen"])
def test_the_textbook_form_makes_the_same_images(network: str, tmp_path: Path) -> None:
    weights = read_restorer(public_file(tmp_path, network))
    photo = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        expected, actual = torch_network(weights)(photo), textbook_form(torch_network(weights))(photo)
    assert (actual - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("network", ["gfpgan", "gpen"])
def test_the_comparison_has_a_ratio_and_the_agreement_of_the_images(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = public_file(tmp_path, network, 16), tmp_path / "c.json"
    monkeypatch.setattr(restoration, "paired_ratio", lambda plain, ours, _: (plain(), ours()) and Ratio(2.0, 1.9, 2.1, 9))
    monkeypatch.setattr(sys, "argv", ["restoration", str(file), "--seconds", "1", "--json", str(out)])
    restoration.main()
    assert "2.00 [1.90, 2.10] times as fast as the plain export" in capsys.readouterr().out
    for row in json.loads(out.read_text(encoding="utf-8"))["faster_than_plain_export"].values():
        assert row["psnr_db"] > 60
        assert row["times_faster"] == 2.0
