"""The plain form takes the same steps as stylert's, and the benchmark reports both."""

import pytest
import torch

from stylert.benchmarks.results import Results, read_results, validate
from stylert.benchmarks.training import _noise, main, measure, plain_forms, shared_row
from stylert.plugins.upfirdn2d import upfirdn2d
from stylert.train import networks
from stylert.train.presets import resolve
from stylert.train.trainer import Trainer

TINY = {"batch": 4, "channel_base": 64, "channel_max": 8, "z_dim": 8, "w_dim": 8, "half": "none"}


def test_both_forms_take_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    # Random images fill memory in the order of their layout; here both draw them in one order.
    monkeypatch.setattr(torch, "randn_like", lambda t: torch.randn(t.shape, dtype=t.dtype))
    cfg = resolve("cpu", 16, **TINY)
    ours = Trainer(cfg, _noise(16, 4))
    expected = [ours.train_step() for _ in range(2)]
    with plain_forms():
        plain = Trainer(cfg, _noise(16, 4))
        assert plain.G.synthesis.b16.conv1.weight.is_contiguous()
        found = [plain.train_step() for _ in range(2)]
    for a, b in zip(found, expected, strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-5)
    assert networks.torch is torch


def test_the_plain_filter_is_differentiated_by_autograd() -> None:
    x, f = torch.randn(1, 1, 6, 6, requires_grad=True), torch.ones(2, 2)
    assert type(upfirdn2d(x, f).grad_fn).__name__ == "_Upfirdn2dBackward"
    with plain_forms():
        assert type(upfirdn2d(x, f).grad_fn).__name__ != "_Upfirdn2dBackward"


def test_a_row_weights_the_steps_as_a_run_does() -> None:
    row = measure("cpu", 16, "stylert", steps=1, **TINY)
    whole = row.main_s + row.path_length_s / 4 + row.r1_s / 16
    assert row.sec_per_kimg == pytest.approx(whole / 4 * 1000)
    assert row.main_s > 0
    assert row.peak_memory_mib > 0
    validate(Results("training", [shared_row(row)]).document(), "training")


@pytest.mark.slow
def test_the_command_writes_both_forms_of_every_preset_and_resolution(tmp_path, capsys) -> None:
    out = tmp_path / "t.json"
    small = ["--batch", "4", "--channel-base", "64", "--steps", "1", "--rounds", "1", "--threads", "1"]
    main(["--preset", "cpu", "--resolution", "8,16", *small, "--json", str(out)])
    rows = read_results(out)["rows"]
    found = [(r["setup"]["form"], r["work"]["resolution"]) for r in rows]
    assert found == [("stylert", 8), ("plain", 8), ("stylert", 16), ("plain", 16)]
    assert all(r["unit"] == "s/kimg" and r["value"] == min(r["rounds"])[0] > 0 for r in rows)
    assert "times as fast" in capsys.readouterr().out
