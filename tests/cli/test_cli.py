"""The commands from export to verify, in processes of their own. Every mistake of the user is one line, with exit code 2."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stylert.cli import main as cli
from stylert.models.checkpoint import read_generator, write_generator
from stylert.runtime import Generator
from stylert.runtime.bundle import Bundle
from stylert.runtime.media.recipes import read_recipe


def stylert(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from stylert.cli.main import main; main()", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env}, timeout=1500)


def refuse(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *args: object) -> str:
    """Run a command with a mistake, in this process. Check that it prints one line and exits with 2, and return the line."""
    monkeypatch.setattr(sys, "argv", ["stylert", *map(str, args)])
    with pytest.raises(SystemExit) as e:
        cli.main()
    out, err = capfd.readouterr()
    assert e.value.code == 2, err
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("stylert: ")
    assert "Traceback" not in out + err
    return err


@pytest.mark.long
def test_export_build_generate_and_verify_work_one_after_the_other(checkpoint: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    for args in (
        ("export", checkpoint, "--out", bundle),
        ("build", bundle, "--backend", "onnxruntime"),
        ("generate", bundle, "--seeds", "0-2,7", "--psi", "0.7", "--precision", "int8", "--out", tmp_path / "images"),
        ("generate", bundle, "--seeds", "0-4", "--out", tmp_path / "images", "--grid"),
        ("verify", bundle, "--against", checkpoint, "--seeds", "3", "--json", tmp_path / "verify.json"),
    ):
        done = stylert(*args)
        assert done.returncode == 0, done.stderr
    names = sorted(p.name for p in (tmp_path / "images").iterdir())
    assert names == ["grid.png", "seed0000.png", "seed0001.png", "seed0002.png", "seed0007.png"]
    with Generator.load(bundle, precision="int8") as g:
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "images" / "seed0007.png")), g([7], psi=0.7)[0])
    assert Image.open(tmp_path / "images" / "grid.png").size == (48, 32)
    rows = json.loads((tmp_path / "verify.json").read_text())["accuracy"]
    assert all(row["passed"] for row in rows)
    assert {row["backend"] for row in rows} >= {"onnxruntime", "openvino", "openvino-no-vnni"}


def test_auto_prints_its_backend_and_the_recipe_names_the_same_one(bundle: Bundle, tmp_path: Path) -> None:
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    for command in (("generate", "--seeds", "1,2", "--grid"), ("sweep", "--seeds", "1", "--psi", "0,1")):
        out = tmp_path / "images" if command[0] == "generate" else tmp_path / "sweep.png"
        done = stylert(command[0], bundle.path, *command[1:], "--out", out, "--backend", "auto", **env)
        assert done.returncode == 0, done.stderr
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("auto: ")]
        name = line.split()[1]
        assert name in ("onnxruntime", "openvino")
        picture = out / "grid.png" if command[0] == "generate" else out
        assert read_recipe(picture).backend == name


def test_precision_auto_prints_the_reason_and_the_recipe_and_the_engine_have_the_same_precision(
    bundle: Bundle, tmp_path: Path
) -> None:
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    copy = Path(shutil.copytree(bundle.path, tmp_path / "b"))
    options = ("--backend", "openvino", "--precision", "auto", "--min-psnr")
    done = stylert("generate", copy, "--seeds", "1", "--out", tmp_path / "images", *options, "99", **env)
    assert done.returncode == 0, done.stderr
    assert "auto: the fastest accurate one for one image is fp32 on openvino" in done.stderr
    assert read_recipe(tmp_path / "images" / "seed0001.png").precision == "fp32"
    done = stylert("build", copy, *options, "99", **env)
    assert done.returncode == 0, done.stderr
    (record,) = (copy / "engines").glob("*/engine.json")
    assert json.loads(record.read_text())["key"]["precision"] == "fp32"
    for command in (("build", copy), ("generate", copy, "--seeds", "1", "--out", tmp_path / "i")):
        done = stylert(*command, "--precision", "int8", "--min-psnr", "40", **env)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "--min-psnr is for --precision auto" in done.stderr


def test_verify_exits_with_1_below_the_threshold(bundle: Bundle, checkpoint: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle.path, tmp_path / "b"))
    manifest = json.loads((copy / "bundle.json").read_text())
    manifest["precisions"]["int8"]["min_psnr_db"] = 99.9
    (copy / "bundle.json").write_text(json.dumps(manifest))
    done = stylert("verify", copy, "--against", checkpoint, "--seeds", "2", "--backend", "onnxruntime")
    assert done.returncode == 1
    assert "FAILED" in done.stdout


@pytest.mark.slow
def test_export_exits_with_1_where_a_precision_misses_its_psnr_and_leaves_it_out(checkpoint: Path, tmp_path: Path) -> None:
    """Noise that is a billion times as large as what the image shows, and that no torgb reads: float16 cannot hold both."""
    weights = read_generator(checkpoint)
    weights.arrays["synthesis.b16.conv1.noise_strength"] *= np.float32(1e10)
    weights.arrays["synthesis.b16.torgb.weight"][:] = 0
    write_generator(tmp_path / "g.safetensors", weights.config, weights.arrays)
    options = ("--precision", "fp32,fp16", "--backend", "onnxruntime", "--verify-seeds", "2")
    done = stylert("export", tmp_path / "g.safetensors", "--out", tmp_path / "b", *options)
    assert done.returncode == 1, done.stderr
    assert "fp16 on onnxruntime" in done.stderr
    assert "Traceback" not in done.stderr
    assert set(Bundle.load(tmp_path / "b").precisions) == {"fp32"}
    assert "synthesis.fp32.onnx" in done.stdout
    alone = stylert("export", tmp_path / "g.safetensors", "--out", tmp_path / "c", "--precision", "fp16", *options[2:])
    assert alone.returncode == 1
    assert "nothing was written" in alone.stderr
    assert not (tmp_path / "c").exists()


def test_the_commands_are_listed_by_help_and_without_arguments() -> None:
    help_text = stylert("--help").stdout
    assert "export" in help_text
    assert stylert().stdout == help_text


def test_the_version_is_that_of_the_package() -> None:
    assert stylert("--version").stdout == f"stylert {version('stylert')}\n"


def test_every_mistake_prints_one_line_and_exits_with_2(
    bundle: Bundle, checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    b, out = bundle.path, tmp_path / "out"
    generate = ("generate", b, "--out", out, "--seeds")
    for args, word in [
        (("export", tmp_path / "no.safetensors", "--out", out), "does not exist"),
        (("export", file, "--out", out), "safetensors"),
        (("export", tmp_path, "--out", out), "not a file"),
        (("export", checkpoint, "--out", file), "not a bundle"),
        (("export", checkpoint, "--out", "/proc/x/y"), "cannot write"),
        (("export", checkpoint, "--out", out, "--precision", "fp7"), "fp7"),
        (("export", checkpoint, "--out", out, "--noise", "loud"), "--noise"),
        (("export", checkpoint, "--out", out, "--output", "jpeg"), "--output"),
        (("export", checkpoint), "--out"),
        (("frobnicate",), "frobnicate"),
        ((*generate, "a-b"), "seeds"),
        ((*generate, ""), "seeds"),
        ((*generate, "0", "--psi", "much"), "psi"),
        ((*generate, "0", "--psi", "nan"), "psi"),
        ((*generate, "0", "--cutoff", "99"), "cutoff"),
        ((*generate, "0", "--batch", "0"), "batch"),
        ((*generate, "0", "--class", "1"), "labels"),
        ((*generate, "0", "--backend", "abacus"), "abacus"),
        ((*generate, "0", "--precision", "fp16"), "fp16"),
        (("generate", b, "--seeds", "0", "--out", file), "file"),
        (("generate", b, "--seeds", "0", "--out", "/proc/x"), "cannot write"),
        (("generate", tmp_path / "nowhere", "--seeds", "0", "--out", out), "does not exist"),
        (("build", b, "--backend", "abacus"), "abacus"),
        (("build", b, "--target", "sm89"), "sm_89"),
        (("build", b, "--backend", "onnxruntime", "--target", "sm_89"), "tensorrt-rtx"),
        (("build", b, "--batch", "4:2:1"), "batch range"),
        (("build", b, "--batch", "some"), "batch range"),
        (("build", b, "--level", "9"), "level"),
        (("build", b, "--backend", "openvino", "--plugins"), "plugins"),
        (("verify", b, "--seeds", "0"), "seeds"),
        (("verify", b, "--json", "/proc/x/y.json"), "cannot write"),
        (("verify", b, "--json", tmp_path), "folder"),
        (("verify", b, "--against", file), "not the checkpoint"),
        (("bench", b, "--batch", "1,x"), "--batch"),
        (("bench", b, "--batch", "0"), "--batch"),
        (("bench", b, "--batch", "1" * 5000), "--batch"),
        (("bench", tmp_path), "bundle.json"),
        (("train", "--data", tmp_path / "no.zip", "--out", out), "does not exist"),
        (("train", "--data", file, "--out", out), "file"),
        (("train", "--data", tmp_path, "--out", file), "file"),
        (("train", "--data", b, "--out", out, "--resume"), "resume"),
        (("train", "--data", b, "--out", out, "--device", "cuda"), "CUDA"),
        (("train", "--data", b, "--out", out, "--transfer", file), "safetensors"),
        (("metrics", file, "--data", tmp_path), "file"),
    ]:
        line = refuse(capfd, monkeypatch, *args)
        assert word in line, (args, line)
        assert not out.exists(), args


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8), max_size=4))
def test_any_words_after_a_command_end_without_a_traceback(words: list[str]) -> None:
    for command in ("export", "generate", "verify", "bench"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["stylert", command, *words])
            with pytest.raises(SystemExit) as e:
                cli.main()
        assert e.value.code in (0, 2)


def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    bundle: Bundle, checkpoint: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    line = refuse(capfd, monkeypatch, "verify", bundle.path, "--against", checkpoint)
    assert "pip install 'stylert[train]'" in line


def test_an_interrupted_export_leaves_no_files(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stylert.export.networks.stylegan2.calibrate", interrupt)
    monkeypatch.setattr(sys, "argv", ["stylert", "export", str(checkpoint), "--out", str(tmp_path / "b")])
    with pytest.raises(SystemExit) as e:
        cli.main()
    assert e.value.code == 130
    assert list(tmp_path.iterdir()) == []
