"""`stylert watermark` as somebody uses it: mark, export, generate, detect, and mistakes in one line."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stylert.core.errors import OutputError
from stylert.models import checkpoint as model_files
from stylert.models.checkpoint import digest, read_generator
from stylert.runtime.watermark.detector_file import read_detector
from stylert.train.watermark import marking
from stylert.train.watermark.marking import MarkedGenerator, ViewWhitening
from tests.cli.conftest import Run
from tests.runtime.watermark.detectors import VIEWS, random_detector, random_weights


@pytest.mark.long
def test_images_of_the_exported_network_carry_the_mark_and_others_do_not(run: Run) -> None:
    """A trained network: one of random weights carries too little to be told from chance after few steps."""
    checkpoint = Path(__file__).parents[2] / "examples" / "cats64.safetensors"
    code, out, err = run("watermark", "train", checkpoint, "--out", "marked.safetensors", "--bits", 16, "--steps", 100)
    assert code == 0, err
    assert "bits read" in out
    assert "marked.detector.onnx: keep it to yourself" in out
    assert stat.S_IMODE(Path("marked.detector.onnx").stat().st_mode) == 0o600
    assert ("too weak" in err) == (float(out.split("bits read")[1].split("%")[0]) < 97)
    facts = read_detector("marked.detector.onnx").facts
    weights = read_generator("marked.safetensors")
    assert facts.checkpoint == digest(weights.arrays)
    assert facts.key not in json.dumps(weights.info)
    for name, source in (("marked", "marked.safetensors"), ("plain", checkpoint)):
        export = ("export", source, "--out", name, "--precision", "fp32", "--backend", "onnxruntime", "--verify-seeds", 0)
        assert run(*export)[0] == 0
        assert run("generate", name, "--seeds", "0-15", "--out", f"{name}-images", "--threads", 1)[0] == 0
    detect = ("--detector", "marked.detector.onnx", "--fpr", 0.02)
    code, out, _ = run("watermark", "detect", *sorted(Path("marked-images").iterdir()), *detect, "--json", "found.json")
    found = json.loads(Path("found.json").read_text())["pictures"]
    assert np.mean([row["matched"] for row in found]) > 12.5
    assert (code == 0) == all(row["marked"] for row in found)
    assert f"{sum(row['marked'] for row in found)} of 16 pictures are marked" in out
    code, _, _ = run("watermark", "detect", *sorted(Path("plain-images").iterdir()), *detect, "--json", "plain.json")
    plain = json.loads(Path("plain.json").read_text())["pictures"]
    assert code == 1
    assert np.mean([row["matched"] for row in plain]) < 10.5


def test_an_unmarked_picture_is_not_found_and_the_exit_code_says_so(run: Run, tmp_path: Path, rng: np.random.Generator) -> None:
    random_detector(tmp_path / "d.onnx", rng)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(f"{i}.png")
    code, out, err = run("watermark", "detect", "0.png", "1.png", "2.png", "--detector", "d.onnx", "--json", "a.json")
    assert (code, err) == (1, "")
    assert out.count("no mark found") == 3
    assert "0 of 3 pictures are marked" in out
    content = json.loads(Path("a.json").read_text())
    assert content["matches_needed"] == 30
    assert all(not row["marked"] and row["false_positive_rate"] > 1e-6 for row in content["pictures"])
    Path("3.png").write_bytes(b"no picture")
    code, out, err = run("watermark", "detect", "0.png", "3.png", "--detector", "d.onnx")
    assert (code, err.count("\n")) == (2, 1)
    assert "0 of 1 pictures are marked, and 1 could not be read" in out
    code, out, _ = run("watermark", "detect", "0.png", "--detector", "d.onnx", "--fpr", 1)
    assert (code, "marked" in out) == (0, True)


def test_no_detector_is_left_without_its_network(run: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full when the network is written. An older network stays, and no key of a network that is not there."""
    Path("older.safetensors").write_bytes(checkpoint.read_bytes())

    def marked(generator: Any, key: list[int], *_: object) -> MarkedGenerator:
        return MarkedGenerator(generator, decoder, views, (40.0, 35.0), 1.0, 0.5)

    weights = random_weights(np.random.default_rng(0), bits=24)
    matrices, means = weights.pop("view_matrices"), weights.pop("view_means")
    views = [ViewWhitening(v.length, v.mirrored, *w) for v, *w in zip(VIEWS, matrices, means, strict=True)]
    decoder: Any = SimpleNamespace(arrays=lambda: weights)
    monkeypatch.setattr(marking, "mark_generator", marked)
    monkeypatch.setattr(model_files, "write_generator", full_disk)
    train = ("watermark", "train", checkpoint, "--out", "older.safetensors", "--bits", 24)
    code, _, err = run(*train)
    assert (code, err) == (2, "stylert: cannot write older.safetensors: No space left on device\n")
    assert sorted(os.listdir()) == ["older.safetensors"]
    assert Path("older.safetensors").read_bytes() == checkpoint.read_bytes()


@pytest.mark.parametrize(("bits", "words"), [(8, "a key of 8 bits has a false-positive rate of 0.0039 at best"), (20, "")])
def test_a_key_that_is_too_short_for_the_default_rate_is_named_before_the_training(
    bits: int, words: str, run: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> MarkedGenerator:
        raise OutputError("stopped")

    monkeypatch.setattr(marking, "mark_generator", stopped)
    code, _, err = run("watermark", "train", checkpoint, "--out", "o.safetensors", "--bits", bits)
    assert code == 2
    assert err.splitlines()[:-1] == ([f"{words}, so detect needs --fpr"] if words else [])


def full_disk(path: Path, *_: object, **__: object) -> None:
    raise OutputError(f"cannot write {path}: No space left on device")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("train", "none.safetensors", "--out", "o.safetensors"), "none.safetensors"),
        (("train", "a.png", "--out", "a.png"), "a.png"),
        (("train", "m", "--out", "o.safetensors", "--detector", "o.safetensors"), "both write"),
        (("train", "m", "--out", "o.safetensors", "--detector", "a.png"), "as a detector"),
        (("train", "m", "--out", "o.safetensors", "--detector", "d.onnx"), "the only copy of its key"),
        (("train", "m", "--out", "o.safetensors", "--device", "tpu"), "unknown device"),
        (("train", "m", "--out", "o.safetensors", "--bits", "3"), "bits"),
        (("detect", "a.png", "--detector", "none.onnx"), "does not exist"),
        (("detect", "a.png", "--detector", "a.png"), "detector a.png"),
        (("detect", "none.png", "--detector", "d.onnx"), "does not exist"),
        (("detect", "text.png", "--detector", "d.onnx"), "text.png"),
        (("detect", "a.png", "--detector", "d.onnx", "--fpr", "1e-12"), "cannot be found"),
        (("detect", "a.png", "--detector", "d.onnx", "--json", "d.onnx"), "is an input"),
        (("detect", "/dev/zero", "--detector", "d.onnx"), "not a regular file"),
        (("detect", "a.png", "--detector", "/dev/zero"), "not a regular file"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    args: tuple[str, ...], words: str, run: Run, tmp_path: Path, rng: np.random.Generator, checkpoint: Path
) -> None:
    (tmp_path / "m").symlink_to(checkpoint)
    random_detector(tmp_path / "d.onnx", rng)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("a.png")
    Path("text.png").write_text("text")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    code, _, err = run("watermark", *args)
    assert (code, len(err.splitlines())) == (2, 1), err
    assert words in err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
