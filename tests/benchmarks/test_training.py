"""The plain form takes the same steps as stylert's form, and the benchmark reports both."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stylert.benchmarks.machine.interference import Interference
from stylert.benchmarks.report.comparison import compare_results
from stylert.benchmarks.report.page import write_report
from stylert.benchmarks.schema import Results, read_results, validate
from stylert.benchmarks.training import FORMS, TrainingRound, _random_dataset, main, measure, plain_form, training_row
from stylert.models.stylegan2 import discriminator, generator
from stylert.plugins.reference.upfirdn2d import upfirdn2d
from stylert.train.configuration.presets import resolve
from stylert.train.trainer import Trainer

TINY = {"batch": 4, "channel_base": 64, "channel_max": 8, "z_dim": 8, "w_dim": 8, "half": "none"}


def test_both_forms_take_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    # torch.randn_like fills memory in the order of the layout, so the two forms would draw different noise.
    monkeypatch.setattr(torch, "randn_like", lambda t: torch.randn(t.shape, dtype=t.dtype))
    cfg = resolve("cpu", 16, **TINY)
    ours = Trainer(cfg, _random_dataset(16, 4))
    expected = [ours.train_step() for _ in range(2)]
    with plain_form():
        plain = Trainer(cfg, _random_dataset(16, 4))
        assert plain.G.synthesis.b16.conv1.weight.is_contiguous()
        plain_losses = [plain.train_step() for _ in range(2)]
    for a, b in zip(plain_losses, expected, strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-5)
    assert generator.torch is discriminator.torch is torch


def test_the_plain_filter_is_differentiated_by_autograd() -> None:
    x, f = torch.randn(1, 1, 6, 6, requires_grad=True), torch.ones(2, 2)
    assert type(upfirdn2d(x, f).grad_fn).__name__ == "_Upfirdn2dBackward"
    with plain_form():
        assert type(upfirdn2d(x, f).grad_fn).__name__ != "_Upfirdn2dBackward"


def test_a_round_weights_the_steps_as_a_run_does() -> None:
    measured = measure("cpu", 16, "stylert", steps=1, **TINY)
    mean_step = measured.main_s + measured.path_length_s / 4 + measured.r1_s / 16
    assert measured.sec_per_kimg == pytest.approx(mean_step / 4 * 1000)
    assert measured.main_s > 0
    assert measured.peak_memory_mib > 0


def rounds(rng: np.random.Generator, others: float = 0.0) -> list[TrainingRound]:
    interference = Interference(3.0, others, 0.0, 0.5, 1.0, 0.0, 0)
    return [TrainingRound(4, s, s / 8, s / 9, 250 * s, 100.0 * s, interference) for s in rng.uniform(1.0, 1.02, 4)]


def document(rng: np.random.Generator, others: float = 0.0) -> dict[str, Any]:
    rows = [
        training_row(
            {"preset": "cpu", "resolution": r},
            {"backend": "torch", "device": "cpu", "threads": 1, "form": f},
            rounds(rng, others),
        )
        for r in (16, 32)
        for f in FORMS
    ]
    results = Results("Training steps", rows).document()
    validate(results, "training")
    return results


def test_a_row_is_the_median_of_its_rounds_and_names_interference(rng: np.random.Generator) -> None:
    four_rounds = rounds(rng, others=0.5)
    row = training_row({"preset": "cpu", "resolution": 16}, {"backend": "torch", "form": "plain"}, four_rounds)
    assert row.value == np.median([r.sec_per_kimg for r in four_rounds])
    assert row.details["main_s"] == np.median([r.main_s for r in four_rounds])
    assert row.peak_memory_mib == max(r.peak_memory_mib for r in four_rounds)
    assert [remark for remark in row.remarks if "50%" in remark]
    without_psutil = training_row(
        {"preset": "cpu", "resolution": 16}, {"backend": "torch", "form": "plain"}, [replace(four_rounds[0], interference=None)]
    )
    assert (without_psutil.remarks, without_psutil.disturbance) == ([], None)


def test_training_results_are_compared_row_by_row_and_have_a_report(rng: np.random.Generator, tmp_path: Path) -> None:
    first, second = document(rng), document(rng, others=0.5)
    (comparison,) = compare_results([("a", first), ("b", second)])
    assert len({row.name for row in comparison.rows}) == len(comparison.rows) == 2 * len(FORMS)
    assert all(row.difference is not None for row in comparison.rows)
    write_report(second, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert '<td class="text">plain</td>' in page
    rows = 2 * len(FORMS)
    assert f"{rows} of {rows} rows are weak evidence" in page


def test_wrong_arguments_are_found_before_anything_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (
        ["--preset", "cpu,mine"],
        ["--resolution", "64,65"],
        ["--resolution", "big"],
        ["--forms", "stylert,fast"],
        ["--forms", "plain,plain"],
        ["--half", "fp8"],
        ["--rounds", "0"],
        ["--json", "/proc/nowhere/f.json"],
    ):
        with pytest.raises(SystemExit) as e:
            main(wrong)
        assert e.value.code == 2
        assert "error: " in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.long
def test_the_command_writes_both_forms_of_every_preset_and_resolution(tmp_path, capsys) -> None:
    out = tmp_path / "t.json"
    small = ["--batch", "4", "--channel-base", "64", "--steps", "1", "--rounds", "1", "--threads", "1"]
    main(["--preset", "cpu", "--resolution", "8,16", *small, "--json", str(out)])
    results = read_results(out)
    found = [(r["setup"]["form"], r["work"]["resolution"]) for r in results["rows"]]
    assert found == [("stylert", 8), ("plain", 8), ("stylert", 16), ("plain", 16)]
    assert all(r["unit"] == "s/kimg" and r["value"] == r["rounds"][0][0] > 0 for r in results["rows"])
    assert set(results["conditions"]["times faster"]) == {f"training, cpu, {r} px, over the plain form" for r in (8, 16)}
    assert "times as fast" in capsys.readouterr().out
