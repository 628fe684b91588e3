"""The examples refuse a mistake in one line, with exit code 2, and replace only files that they wrote."""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylert.runtime.bundle import Bundle
from tests.models.importers.stylegan3_files import stylegan3_file
from tests.models.stylegan3.tiny import randomized, tiny_config
from tests.test_examples import EXAMPLES, SHIPPED, python


def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, example: str, *args: object) -> str:
    """The line of an example that refuses its arguments."""
    monkeypatch.setattr(sys, "argv", [example, *map(str, args)])
    with pytest.raises(SystemExit) as e:
        runpy.run_path(str(EXAMPLES / example), run_name="__main__")
    printed = capsys.readouterr()
    assert (e.value.code, printed.out) == (2, ""), printed.err
    usage, _, line = printed.err.rstrip("\n").rpartition("\n")
    assert usage == "" or usage.startswith("usage: ")
    assert line.startswith((f"{example}: error: ", f"{example.removesuffix('.py')}: "))
    return line


def write_metrics(folder: Path, *rows: object) -> Path:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_examples_replace_no_file_of_others(
    tmp_path: Path, bundle: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"kimg": 1, "FD": 3.0, "noise": "random"}
    run = write_metrics(tmp_path / "run", row, {**row, "kimg": 2, "FD": 2.0})
    for name in ("a.png", "a.webp", "b.json", "b.png", "b-samples.png", "c.safetensors", "results.json"):
        (tmp_path / name).write_text("of the user")
    manifest = (bundle.path / "bundle.json").read_bytes()
    for arguments in (
        ("generate.py", bundle.path, tmp_path / "a.png"),
        ("generate.py", bundle.path, bundle.path / "bundle.json"),
        ("readme_picture.py", bundle.path, tmp_path / "a.png"),
        ("page_picture.py", "http://127.0.0.1:9", tmp_path / "a.webp"),
        ("page_picture.py", "http://127.0.0.1:9", tmp_path / "a.png"),
        ("morph.py", bundle.path, "--screenshot", tmp_path / "a.png"),
        ("metrics_curve.py", run, "--out", tmp_path / "a.png"),
        ("metrics_curve.py", run, "--out", run / "metrics.jsonl"),
        ("training_curve.py", run, "--data", "d.zip", "--floor", "f.zip", "--out", tmp_path / "b"),
        ("compare_training.py", "--data", "d.zip", "--cpu-seconds", 1, "--run", "a", "--out", tmp_path),
        ("release_checkpoint.py", SHIPPED, tmp_path / "c.safetensors"),
        ("make_cats.py", "--out", tmp_path / "c.safetensors"),
    ):
        words = r"did not (write|draw)|must end in .(png|webp)|with its recipe"
        assert re.search(words, refused(capsys, monkeypatch, *arguments)), arguments
    assert {p.read_text() for p in tmp_path.iterdir() if p.is_file()} == {"of the user"}
    assert "FD" in (run / "metrics.jsonl").read_text()
    assert (bundle.path / "bundle.json").read_bytes() == manifest
    for _ in range(2):  # its own picture may be replaced
        python(EXAMPLES / "metrics_curve.py", run, "--out", tmp_path / "d.png")


def test_the_picture_of_an_example_may_be_replaced_by_it(tmp_path: Path, bundle: Bundle) -> None:
    for _ in range(2):
        python(EXAMPLES / "generate.py", bundle.path, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (64, 32)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.fixture(scope="module")
def stylegan3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cfg = tiny_config(img_channels=3, conv_kernel=1, use_radial_filters=True, channel_base=512, channel_max=16, margin_size=10)
    return stylegan3_file(tmp_path_factory.mktemp("stylegan3") / "network.pkl", randomized(cfg, 1))


def test_a_stylegan3_folder_with_files_of_others_is_not_replaced(
    tmp_path: Path, stylegan3: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    command = ("stylegan3_to_onnx.py", stylegan3, out, "--seeds", "0")
    for name in ("images.png", "mapping.onnx"):  # the names of its files are not enough
        out.mkdir()
        (out / name).write_text("mine")
        assert name in refused(capsys, monkeypatch, *command)
        assert [(file.name, file.read_text()) for file in out.iterdir()] == [(name, "mine")]
        (out / name).unlink()
        out.rmdir()
    for _ in range(2):
        python(EXAMPLES / command[0], *command[1:])
    (out / "images.png").write_bytes(b"mine")
    assert "images.png" in refused(capsys, monkeypatch, *command)
    assert (out / "images.png").read_bytes() == b"mine"
    inside = tmp_path / "pickle" / "network.pkl"
    inside.parent.mkdir()
    os.link(stylegan3, inside)
    assert "an input lies in it" in refused(capsys, monkeypatch, "stylegan3_to_onnx.py", inside, inside.parent)


@pytest.mark.parametrize(
    "options",
    [
        ["--angle", "inf"],
        ["--angle", "nan"],
        ["--angle", "1e39"],
        ["--shift", "0", "nan"],
        ["--shift", "1e39", "0"],
        ["--psi", "1e39"],
        ["--psi", "nan"],
        ["--seeds", "0-4294967295"],
        ["--seeds", "a"],
        ["--seeds", ""],
    ],
)
def test_numbers_that_make_no_image_are_refused(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(capsys, monkeypatch, "stylegan3_to_onnx.py", "none.pkl", tmp_path / "out", *options)
    assert not list(tmp_path.iterdir())


def test_more_images_than_the_memory_holds_are_refused(
    tmp_path: Path, stylegan3: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylert.runtime.media.rendering.MAX_HELD", 2 * 16**2)
    line = refused(capsys, monkeypatch, "stylegan3_to_onnx.py", stylegan3, tmp_path / "out", "--seeds", "0-2")
    assert "3 images of 16 px are too many" in line


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_an_example_with_its_exit_code_and_leaves_nothing(
    number: signal.Signals, tmp_path: Path, stylegan3: Path
) -> None:
    command = [sys.executable, EXAMPLES / "stylegan3_to_onnx.py", stylegan3, tmp_path / "out", "--seeds", "0-99999"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8") as process:
        try:
            while not list(tmp_path.glob(".out.*/synthesis.onnx")) and process.poll() is None:
                time.sleep(0.05)
            process.send_signal(number)
            err = process.communicate(timeout=600)[1]
        finally:
            process.kill()
    assert (process.returncode, err.splitlines()[-1], "Traceback" in err) == (128 + number, "stopped", False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ("morph.py", "none", "--fps", "inf"),
        ("morph.py", "none", "--fps", "nan"),
        ("morph.py", "none", "--seconds", "inf"),
        ("morph.py", "none", "--frames", 0),
        ("morph.py", "none", "--frames", 2**63),
        ("morph.py", "none"),
        ("morph.py", "none", "--screenshot", "a.bmp"),
        ("generate.py",),
        ("generate.py", "none", "a.png"),
        ("generate.py", "none", "."),
        ("zero_copy.py", "none"),
        ("release_checkpoint.py", "none", "a.safetensors"),
        ("release_checkpoint.py", SHIPPED, "a.safetensors", "--info", "credit"),
        ("make_cats.py", "--out", "a.zip", "--resolution", 10**9),
        ("make_cats.py", "--out", "a.zip", "--resolution", 0),
        ("make_cats.py", "--out", "a.zip", "--count", 0),
        ("compare_training.py", "--data", "none", "--cpu-seconds", "nan", "--run", "a", "--out", "o"),
        ("compare_training.py", "--data", "none", "--cpu-seconds", 1, "--run", "../a", "--out", "o"),
        ("compare_training.py", "--data", "none", "--cpu-seconds", 1, "--run", "a='", "--out", "o"),
        ("compare_training.py", "--data", "none", "--cpu-seconds", 1, "--run", "a", "--out", "o"),
        ("training_curve.py", "none", "--data", "d", "--floor", "f", "--out", "o"),
        ("training_curve.py", "none", "--data", "d", "--floor", "f", "--out", "o", "--every", 0),
        ("training_curve.py", "none", "--data", "d", "--floor", "f", "--out", "o", "--every", "nan"),
        ("training_curve.py", "none", "--data", "d", "--floor", "f", "--out", "o", "--every", "1e-320"),
        ("training_curve.py", "none", "--data", "d", "--floor", "f", "--out", "o", "--images", 11),
        ("training_curve.py", "none", "--data", "d", "--floor", "f", "--out", "."),
        ("web_frames.py", "none"),
        ("web_frames.py", ".", "--seconds", "nan"),
        ("web_frames.py", ".", "--processors", "x"),
        ("web_frames.py", ".", "--processors", ""),
        ("web_frames.py", ".", "--processors", "2,"),
        ("web_frames.py", ".", "--processors", "0"),
        ("web_frames.py", ".", "--processors", "-2"),
        ("web_frames.py", ".", "--processors", "2,2"),
        ("web_frames.py", ".", "--processors", "1_0"),
        ("web_frames.py", ".", "--processors", "9" * 5000),
        ("serve_load.py", "none"),
        ("serve_load.py", "none", "--seconds", "nan"),
        ("serve_load.py", "none", "--clients", "0"),
        ("serve_load.py", "none", "--clients", "99999999999"),
        ("serve_load.py", "none", "--seconds", "1e-9"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_file(
    arguments: tuple[object, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    example, *rest = arguments
    refused(capsys, monkeypatch, str(example), *rest)
    assert not list(tmp_path.iterdir())


def test_a_picture_with_transparency_is_drawn_without_it() -> None:
    shrink = runpy.run_path(str(EXAMPLES / "morph.py"))["shrink"]
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 4), np.uint8)
    np.testing.assert_array_equal(shrink(image, 8, 4), image[..., :3])
    np.testing.assert_array_equal(shrink(image[..., :2], 8, 4), image[..., :1].repeat(3, 2))


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        ([{"kimg": 1, "noise": "random", "FD": "x"}], ["--metric", "FD"], "has no values of 'FD'"),
        ([{"kimg": 1, "noise": "random", "FD": None}], [], "has no metrics"),
        ([{"kimg": 1, "noise": "random", "FD": True}], [], "has no metrics"),
        ([{"kimg": 1, "noise": "random", "best": True}], [], "has no metrics"),
        ([{"kimg": "a", "noise": "random", "FD": 1}], [], "no lines of metrics"),
        ([{"kimg": [1], "noise": "random", "FD": 1}], [], "no lines of metrics"),
        ([{"kimg": None, "noise": "random", "FD": 1}], [], "no lines of metrics"),
        ([{"kimg": 1, "noise": "random", "FD": 1}], ["--metric", "KID\n"], "has no values of"),
        ([{"kimg": 1, "noise": "random", "FD": 1}], ["--out", "q.xyz"], "must end in .png"),
        ([[1], 2, "x"], [], "no lines of metrics"),
        ([{"kimg": 1e300, "noise": "random", "FD": 1}], [], "has a line of 1e+300 kimg"),
        ([{"kimg": -1e300, "noise": "random", "FD": 1}], [], "has a line of -1e+300 kimg"),
        ([{"kimg": 1, "noise": "random", "FD": 1}, {"kimg": -1, "noise": "random", "FD": 1}], [], "has a line of -1 kimg"),
        ([{"kimg": 1, "noise": "random", "\x1b[2J": -1e308}], [], r"has a '\x1b[2J' of -1e+308, beyond"),
    ],
)
def test_the_curve_of_damaged_metrics_is_refused_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    rows: list[object],
    options: list[str],
    words: str,
) -> None:
    run = write_metrics(tmp_path / "run", *rows)
    assert words in refused(capsys, monkeypatch, "metrics_curve.py", run, "--out", tmp_path / "q.png", *options)
    assert not (tmp_path / "q.png").exists()


def test_the_curve_leaves_out_what_is_no_number_and_shows_names_as_they_are(tmp_path: Path) -> None:
    name = "F$\\frac{$"
    rows = [
        {"kimg": k, "noise": "random", name: v} for k, v in ((1, 2.0), (2, None), (3, "x"), ("4", 1.0), (5, 1e300), (6, 1e-300))
    ]
    run = write_metrics(tmp_path / "a$\\frac{$b", *rows)
    assert f"3 snapshots, {name} is lowest at 6 kimg" in python(EXAMPLES / "metrics_curve.py", run, "--out", tmp_path / "q.png")


def test_names_of_metrics_and_folders_are_printed_without_escape_sequences(tmp_path: Path) -> None:
    run = write_metrics(tmp_path / "a\x1b[31mb", {"kimg": 1, "noise": "random", "\x1b[2J": 3.0})
    line = python(EXAMPLES / "metrics_curve.py", run, "--out", tmp_path / "q.png")
    assert line == "a\\x1b[31mb: 1 snapshots, \\x1b[2J is lowest at 1 kimg: 3\n"


def test_a_path_is_printed_without_escape_sequences(tmp_path: Path) -> None:
    target = tmp_path / "a\x1b[31mb.safetensors"
    assert "a\\x1b[31mb.safetensors: " in python(EXAMPLES / "release_checkpoint.py", SHIPPED, target)


def test_more_images_than_the_real_ones_are_refused_before_any_is_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("run", "data"):
        (tmp_path / folder).mkdir()
    (tmp_path / "run" / "snapshot-1.safetensors").write_bytes(b"")
    for i in range(13):
        Image.new("RGB", (8, 8)).save(tmp_path / "data" / f"{i}.png")
    sources = ("--data", tmp_path / "data", "--floor", tmp_path / "data", "--out", tmp_path / "curve")
    line = refused(capsys, monkeypatch, "training_curve.py", tmp_path / "run", *sources, "--images", 1_000_000)
    assert "data has 13 images: --images 13 is the most that it gives" in line


@pytest.mark.parametrize("example", ["page_picture.py", "web_frames.py"])
def test_a_browser_that_does_not_start_is_one_line_without_its_log(
    example: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = pytest.importorskip("playwright.sync_api")

    def failed() -> None:
        raise browser.Error("BrowserType.launch: no\x1b[2J browser\nCall log:\n  - <launching> chromium\n\u2554\u2550\u2557")

    monkeypatch.setattr(browser, "sync_playwright", failed)
    (tmp_path / "index.html").write_text("")
    arguments = ("http://127.0.0.1:9", tmp_path / "a.webp") if example == "page_picture.py" else (tmp_path,)
    line = refused(capsys, monkeypatch, example, *arguments)
    assert line.endswith(": BrowserType.launch: no [2J browser")
