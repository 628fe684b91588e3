"""The tables of robustness: fresh seeds alone, goals judged by the worst mark, and one command from training to tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stylert.benchmarks.tools import watermark_measurements as measured
from stylert.benchmarks.tools import watermark_robustness as tool
from stylert.benchmarks.tools.watermark_edits import CLEAN, CROP, JPEG, RESIZE, edited, edits
from stylert.benchmarks.tools.watermark_marks import findings, mark_settings
from stylert.benchmarks.tools.watermark_seeds import TableSeeds, check_fresh, used_seeds
from stylert.benchmarks.tools.watermark_tables import goals, growths, page
from stylert.core.errors import InputError
from stylert.export.quantization import calibration_latents
from stylert.runtime.watermark.detection import Detector
from stylert.train.watermark import marking
from stylert.train.watermark.marking import MarkSettings
from tests.runtime.watermark.detectors import random_detector

DEFAULTS = mark_settings(100, 400, 600, 2048, 39.0)


def test_the_tool_trains_as_the_command_does_by_default() -> None:
    options = tool.argument_parser().parse_args(["--out", "x"])
    plain = MarkSettings(options.seed)
    settings = mark_settings(options.seed, options.steps, options.decoder_steps, options.whitening, options.psnr)
    for name in ("images", "decoder_steps", "test_images"):
        assert getattr(settings, name) == getattr(plain, name)
    for name in ("steps", "psnr", "batch", "lr", "blocks"):
        assert getattr(settings.tuning, name) == getattr(plain.tuning, name)


def test_all_images_of_training_and_calibration_are_of_seeds_that_the_list_of_used_ones_holds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: set[int] = set()

    def images(generator: Any, first: int, count: int, progress: Any = None) -> np.ndarray:
        drawn.update(range(first, first + count))
        return np.zeros((count, 64, 64, 3), np.uint8) + np.arange(count, dtype=np.uint8)[:, None, None, None]

    monkeypatch.setattr(marking, "drawn_images", images)
    monkeypatch.setattr(marking, "fine_tune", lambda generator, *_: generator)
    monkeypatch.setattr(
        calibration_latents, "_map", lambda cfg, mapping, seeds, *_: drawn.update(seeds) or np.zeros((256, 2, 4))
    )
    network: Any = type("Network", (), {"to": lambda self, _: self, "cpu": lambda self: self})()
    sizes = {"img_channels": 3, "resolution": 64, "c_dim": 0, "num_ws": 2}
    network.cfg = type("Configuration", (), {**sizes, "require_usual_shape": lambda purpose: None})
    settings = mark_settings(100, 1, 1, 64, 35.0)
    marking.mark_generator(network, [0, 1] * 4, settings)
    calibration_latents.calibration_latents(network.cfg, tmp_path)
    calibration_latents.search_latents(network.cfg, tmp_path)
    used = set().union(*used_seeds([settings]).values())
    assert len(drawn) == 64 + 256 + 256 + 16
    assert drawn <= used


def test_the_seeds_of_the_tables_are_fresh_and_each_has_one_purpose() -> None:
    seeds, used = TableSeeds.of(19_000_000, 128, 2048, 1000, 5000), used_seeds([DEFAULTS])
    check_fresh(vars(seeds), used)
    tables = [seed for each in vars(seeds).values() for seed in each]
    assert len(tables) == len(set(tables)) == 128 + 2048 + 2 * 1000 + 5000
    assert not set(tables) & set().union(*used.values())


@pytest.mark.parametrize(
    "purpose", ["training and whitening", "test", "calibration", "search", "fine-tuning", "judged images of earlier"]
)
def test_a_seed_that_was_used_before_stops_the_run(purpose: str) -> None:
    used = used_seeds([DEFAULTS])
    (name,) = (name for name in used if name.startswith(purpose))
    for first in (used[name].start - 7, used[name].stop - 1):
        with pytest.raises(InputError, match="another --first-seed"):
            check_fresh({"judged": range(max(first, 0), first + 8)}, used)
    check_fresh({"judged": range(used[name].stop, used[name].stop + 1)}, {name: used[name]})


def test_two_purposes_of_one_run_share_no_seed() -> None:
    with pytest.raises(InputError, match="judged and of unmarked"):
        check_fresh(vars(TableSeeds.of(19_000_000, 1_000_001, 1, 1, 1)), {})


def test_the_edits_leave_the_size_that_their_names_say(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (60, 80, 3), np.uint8)
    sizes = {name: edited(image, edit, 3).size for name, edit in edits().items()}
    changed = {name: size for name, size in sizes.items() if size != (80, 60)}
    assert changed == {
        RESIZE: (60, 45),
        "resize to 50 %": (40, 30),
        "resize to 200 %": (160, 120),
        "crop to 90 % of each side": (72, 54),
        CROP: (64, 48),
        "crop to 60 % of each side": (48, 36),
        "crop to 80 %, then JPEG 75": (64, 48),
    }
    assert np.array_equal(edited(image, edits()[CLEAN], 3), image)
    assert all(not np.array_equal(edited(image, edit, 3), image) for name, edit in edits().items() if name != CLEAN)


def test_an_edit_repeats_with_the_seed_of_its_image(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (40, 40, 3), np.uint8)
    for edit in edits().values():
        assert np.array_equal(edited(image, edit, 5), edited(image, edit, 5))
    assert len({edited(image, edits()[CROP], seed).tobytes() for seed in range(20)}) > 5


def test_threads_read_each_image_as_one_call_does(tmp_path: Path, rng: np.random.Generator) -> None:
    detector = Detector.load(random_detector(tmp_path / "d.onnx", rng), threads=1)
    images = [Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(6)]
    assert findings(detector, images) == [detector.detect(image) for image in images]


def test_an_average_of_images_holds_the_pattern_that_they_share(rng: np.random.Generator) -> None:
    pattern = rng.choice([-4.0, 4.0], (48, 48, 3))
    images = (128 + pattern + rng.normal(0, 3, (60, 48, 48, 3))).round().astype(np.uint8)
    found = measured.mean_difference(images)
    assert np.corrcoef(found.ravel(), pattern.ravel())[0, 1] > 0.9


def document(**changes: Any) -> dict[str, Any]:
    """Results of two marks that keep every goal, the second one barely."""
    cells = {CLEAN: (100.0, 99.0), JPEG: (99.0, 95.0), RESIZE: (99.0, 95.0), CROP: (97.0, 95.0)}
    row = {"matches needed": 30, "worst at psi 1": 31.0, "mean at psi 0.7": 36.0, "worst at psi 0.7": 33.0}
    chance = {"images": "real", "number": 8, "mean": 16.0, "variance": 8.0, "most": 22, "found at 0.01": 0, "found at 1e-06": 0}
    attacked = {"read": 50.0, "found": 0.0, "psnr": 40.0}
    values: dict[str, Any] = {
        "command": "python x",
        "created": "2026-12-01",
        "machine": {"cpu": "a processor", "cores": 2, "python": "3.11", "packages": {"numpy": "2.4"}},
        "settings": {"bits": [32, 32], "images": 8, "distance images": 10},
        "seeds": {"tables": {"judged": [7, 9]}, "used before": {"whitening": [0, 5]}},
        "marks": [{"mark": "a", "mean at psi 1": 36.0, **row}, {"mark": "b", "mean at psi 1": 35.0, **row}],
        "edits": [{"edit": name, "marks": [{"read": v, "found": 100.0} for v in pair]} for name, pair in cells.items()],
        "runtimes": [{"runtime": "x", "precision": "int8", "edit": e, "marks": [{"read": 99.0, "found": 98.0}] * 2} for e in (CLEAN, JPEG)],
        "attacker": [{"images": 3, "as many unmarked": True, "removed": attacked, "forged": attacked}],
        "chance": [{"edit": edit, **chance} for edit in (CLEAN, JPEG)],
        "distances": {"without a mark": 100.0, "a": 104.0, "b": 104.5},
    }  # fmt: skip
    return values | changes


def test_the_worst_mark_decides_whether_a_goal_is_met() -> None:
    assert all(goal[-1] for goal in goals(document()))
    assert [goal[4] for goal in goals(document())] == [99, 95, 95, 95, 99, 35, 0, pytest.approx(4.5)]
    assert growths(document()) == {"a": pytest.approx(4), "b": pytest.approx(4.5)}
    worse = document(distances={"without a mark": 100.0, "a": 111.0, "b": 103.0})
    worse["edits"][3]["marks"][0]["read"] = 94.99
    worse["chance"][1]["found at 1e-06"] = 1
    worse["runtimes"][0]["marks"] = [{"read": 99.5, "found": 100.0}, {"read": 98.9, "found": 100.0}]
    assert [goal[-1] for goal in goals(worse)] == [True, True, True, False, False, True, False, False]
    assert len(goals(document(distances={}))) == 7


def test_the_page_has_rows_of_equal_width_and_says_which_goals_are_missed() -> None:
    text = page(document())
    for block in text.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1, block
    assert "**no**" not in text
    assert "**no**" in page(document(distances={"without a mark": 100.0, "a": 106.0, "b": 100.0}))
    assert "| 3 marked, as many unmarked | 50.00 (0) | 40.0 | 50.00 (0) | 40.0 |" in text
    assert "FD" not in page(document(distances={}))


@pytest.mark.long
def test_one_command_goes_from_training_to_tables_and_a_mark_repeats_beside_others_and_alone(
    make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "BACKENDS", ("onnxruntime",))
    monkeypatch.setattr(measured, "PRECISIONS", ("fp32", "int8"))
    checkpoint, results = make_checkpoint(resolution=32), []
    for bits, seed in (("8 32", "100"), ("32", "101")):
        out = tmp_path / seed
        given = ["--quick", "--checkpoint", str(checkpoint), "--fd", "3", "--seed", seed, "--out", str(out), "--bits"]
        tool.main([*given, *bits.split()])
        results.append(json.loads((out / "watermark.json").read_text(encoding="utf-8")))
        assert page(results[-1]) == (out / "watermark.md").read_text(encoding="utf-8")
    both, alone = results
    assert alone["marks"] == both["marks"][1:]
    for table in ("edits", "runtimes"):
        assert [row["marks"] for row in alone[table]] == [row["marks"][1:] for row in both[table]]
    assert alone["attacker"] == both["attacker"]
    assert alone["distances"].items() <= both["distances"].items()
    assert [row["matches needed"] for row in both["marks"]] == [None, 30]
    assert {row["edit"] for row in both["edits"]} == {*edits(), "psi 0.7", f"psi 0.7, {JPEG}"}
    assert [(row["precision"], row["edit"]) for row in both["runtimes"]] == [
        (p, e) for p in ("fp32", "int8") for e in (CLEAN, JPEG)
    ]
    assert [row["number"] for row in both["chance"]] == [4] * 6
    assert list(both["distances"]) == ["without a mark", "8 bits, seed 100", "32 bits, seed 101"]
    assert both["seeds"]["tables"]["judged"] == [19_000_000, 19_000_002]


def test_a_mistake_is_one_line_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tool, "read_stylegan2_generator", lambda *_: pytest.fail("it began"))
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "watermark.md").write_text("# My notes\n", encoding="utf-8")
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for given, words in (
        (["--out", str(tmp_path / "theirs")], "another program wrote"),
        (["--out", str(tmp_path / "file")], "is no folder"),
        (["--out", str(tmp_path / "new"), "--first-seed", "1000000"], "another --first-seed"),
    ):
        with pytest.raises(SystemExit) as end:
            tool.main(given)
        assert end.value.code == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "theirs" / "watermark.md").read_text(encoding="utf-8") == "# My notes\n"
