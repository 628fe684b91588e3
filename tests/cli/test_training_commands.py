"""The commands dataset, augment-preview, train and metrics: from pictures to a measured checkpoint."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylert.cli import main as cli
from stylert.models.checkpoint import read_metadata
from stylert.train import compile_check as compiled
from stylert.train.trainer import Trainer

SMALL = ("--preset", "cpu", "--channel-base", "64", "--channel-max", "8", "--batch", "8")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """A function that runs `stylert` with the given arguments. It returns the exit code and the printed text."""

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["stylert", *map(str, words)])
        with pytest.raises(SystemExit) as e:
            cli.main()
        captured = capfd.readouterr()
        return int(e.value.code or 0), captured.out + captured.err

    return run


@pytest.fixture
def pictures(tmp_path: Path, rng: np.random.Generator) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(9):
        Image.fromarray(rng.integers(0, 256, (10, 14, 3), np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def data(pictures: Path, tmp_path: Path, command) -> Path:
    path = tmp_path / "data.zip"
    assert command("dataset", pictures, "--out", path, "--resolution", 8, "--transform", "center-crop")[0] == 0
    return path


def test_a_run_that_cannot_compile_says_so_in_one_line_and_goes_on(
    data: Path, tmp_path: Path, command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "unavailable_reason", lambda device: "no compiler")
    status, text = command("train", "--data", data, "--out", tmp_path / "run", *SMALL, "--kimg", 0.01, "--compile")
    assert status == 0, text
    assert text.count("without torch.compile, which does not work here: no compiler") == 1
    status, text = command("train", "--data", tmp_path / "run", "--out", tmp_path / "second", *SMALL)
    assert status == 2
    assert "folder of a training run" in text
    assert not (tmp_path / "second").exists()


def test_an_augmented_run_is_resumed_and_transferred(data: Path, tmp_path: Path, command) -> None:
    out = tmp_path / "run"
    new = ("train", "--data", data, "--out", out, *SMALL)
    augmented = ("--aug", "ada", "--target", 0.5, "--augpipe", "bg", "--batch-gpu", 4, "--freeze-d", 1, "--keep", 1)
    status, text = command(*new, "--kimg", 0.4, *augmented)
    assert status == 0, text
    saved = read_metadata(out / "snapshot.safetensors")
    wanted = {"aug": "ada", "ada_target": 0.5, "aug_pipeline": "bg", "batch_gpu": 4, "freeze_d": 1, "ada_kimg": 500.0}
    assert {k: saved["train"][k] for k in wanted} == wanted
    assert saved["facts"]["nimg"] == 400
    assert "aug_p" in json.loads((out / "stats.jsonl").read_text().splitlines()[0])  # a slow run has a line per minute
    assert (out / "snapshot-000000.safetensors").is_file()
    # First without the options that the run has stored, then with all of them.
    for words, kimg in ((("train", "--data", data, "--out", out), 0.42), ((*new, *augmented), 0.44)):
        status, text = command(*words, "--resume", "--kimg", kimg)
        assert status == 0, text
        assert read_metadata(out / "snapshot.safetensors")["facts"]["nimg"] == math.ceil(kimg * 1000 / 8) * 8
    assert len((out / "stats.jsonl").read_text().splitlines()) == 3  # a run that ends between two lines writes one more
    status, text = command(*new, "--resume", "--kimg", 0.5, "--gamma", 0.7, "--set", "generator.z_dim=9")
    assert status == 2
    assert "keeps its settings: generator.z_dim had other values" in text
    changed = ("--gamma", 0.7, "--lr", 0.001, "--aug", "fixed", "--p", 0.2)
    status, text = command(*new, "--resume", "--kimg", 0.46, *changed)
    assert status == 0, text
    for line in ("r1_gamma changes from 0.025 to 0.7", "aug changes from ada to fixed", "aug_p changes from 0.0 to 0.2"):
        assert line in text
    saved = read_metadata(out / "snapshot.safetensors")
    assert (saved["train"]["r1_gamma"], saved["train"]["aug_p"]) == (0.7, 0.2)
    assert saved["facts"]["changes"][0]["lr"] == [0.0025, 0.001]
    status, text = command(*new[:5], "--resume", "--kimg", 0.47, "--p", 0.3)  # p alone, of the augmentation that the run has
    assert status == 0, text
    for words in (("--aug", "ada", "--p", 0.3), ("--aug", "noaug", "--set", "aug_p=0.3")):
        status, text = command(*new, "--resume", *words)
        assert (status, "--p is the probability of --aug fixed" in text) == (2, True)
    for name, option in (("other", "--transfer"), ("third", "--resume")):
        start = (option, out / "snapshot.safetensors", "--aug", "ada", "--kimg", 0)
        status, text = command("train", "--data", data, "--out", tmp_path / name, *SMALL, *start)
        assert status == 0, text
        assert "tensors taken over" in text
        started = read_metadata(tmp_path / name / "snapshot.safetensors")["train"]
        assert (started["ada_kimg"], started["ema_rampup"]) == (100.0, None)
    explicit = ("--set", "ada_kimg=700", "--set", "ema_rampup=0.1", "--transfer", out / "snapshot.safetensors", "--kimg", 0)
    status, text = command("train", "--data", data, "--out", tmp_path / "fourth", *SMALL, *explicit)
    assert status == 0, text
    started = read_metadata(tmp_path / "fourth" / "snapshot.safetensors")["train"]
    assert (started["ada_kimg"], started["ema_rampup"]) == (700.0, 0.1)


def test_a_run_on_mirror_images_of_a_subset_is_planned_made_and_resumed(data: Path, tmp_path: Path, command) -> None:
    new = ("train", "--data", data, "--out", tmp_path / "run", *SMALL, "--subset", 5, "--mirror")
    status, text = command(*new, "--dry-run")
    assert status == 0, text
    assert "10 of 8 px" in text
    for words in ((*new, "--kimg", 0.01), ("train", "--data", data, "--out", tmp_path / "run", "--resume", "--kimg", 0.02)):
        status, text = command(*words)
        assert status == 0, text
    saved = read_metadata(tmp_path / "run" / "snapshot.safetensors")["train"]
    assert (saved["subset"], saved["mirror"]) == (5, True)
    assert {"reals.png", "fakes-init.png"} <= {p.name for p in (tmp_path / "run").iterdir()}
    status, text = command(*new[:5], "--resume", "--subset", 6)
    assert status == 2
    assert "subset had other values" in text
    status, text = command(*new[:3], "--out", tmp_path / "other", *SMALL, "--subset", 10)
    assert status == 2
    assert "9 images, which is fewer than the subset of 10" in text


def test_a_run_on_labels_is_measured_and_resumed_without_naming_them_again(
    pictures: Path, tmp_path: Path, command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    labels = [[f"{i}.png", int(i == 4)] for i in range(9)]
    (pictures / "dataset.json").write_text(json.dumps({"labels": labels}))
    data, run = tmp_path / "labelled.zip", ("train", "--data", tmp_path / "labelled.zip", "--out", tmp_path / "run")
    assert command("dataset", pictures, "--out", data, "--resolution", 8, "--transform", "center-crop")[0] == 0
    for words in ((*SMALL, "--cond", "--kimg", 0.01), ("--resume", "--kimg", 0.02)):
        status, text = command(*run, *words, "--metrics", "fd9")
        assert status == 0, text
    assert read_metadata(tmp_path / "run" / "snapshot.safetensors")["train"]["generator"]["c_dim"] == 2
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["noise"] for line in lines] == ["random", "random"]
    balanced = (*run[:3], "--out", tmp_path / "balanced", *SMALL, "--class-balanced")
    status, text = command(*balanced)
    assert (status, "add --cond" in text) == (2, True)
    for words in (("--cond", "--dry-run"), ("--cond", "--kimg", 0.01), ("--resume", "--kimg", 0.02)):
        status, text = command(*balanced, *words)
        assert status == 0, text
    assert read_metadata(tmp_path / "balanced" / "snapshot.safetensors")["train"]["class_balanced"] is True
    (pictures / "dataset.json").write_text(json.dumps({"labels": [[f"{i}.png", [0.5, i]] for i in range(9)]}))
    assert command("dataset", pictures, "--out", data, "--resolution", 8, "--transform", "center-crop")[0] == 0
    status, text = command(*balanced, "--cond")
    assert status == 2
    status, text = command(*run[:3], "--out", tmp_path / "vectors", *SMALL, "--class-balanced", "--cond")
    assert (status, "these labels are vectors" in text) == (2, True)


def test_a_signal_stops_the_run_and_the_command_to_continue_is_printed(
    data: Path, tmp_path: Path, command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(trainer: Trainer, original=Trainer.train_step) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(trainer)

    monkeypatch.setattr(Trainer, "train_step", step)
    status, text = command("train", "--data", data, "--out", tmp_path / "run", *SMALL, "--kimg", 1)
    assert status == 0
    assert "stopped at 0.008 of 1 kimg: --resume continues" in text
    assert read_metadata(tmp_path / "run" / "snapshot.safetensors")["facts"]["nimg"] == 8


def test_a_dry_run_prints_the_plan_and_writes_nothing(data: Path, tmp_path: Path, command) -> None:
    status, text = command("train", "--data", data, "--out", tmp_path / "run", *SMALL, "--gamma", 0.7, "--dry-run")
    assert status == 0
    for words in ("r1_gamma", "0.7", "generator.channel_max", "parameters", "GMAC", "MiB", "at least"):
        assert words in text
    assert not (tmp_path / "run").exists()


def test_the_preview_has_a_row_for_every_pipeline_and_a_block_for_every_p(data: Path, tmp_path: Path, command) -> None:
    sheet = tmp_path / "sheet.png"
    chosen = ("--augpipe", "blit,noise,cutout", "--p", "0,1", "--images", 3, "--tile", 20)
    assert command("augment-preview", data, "--out", sheet, *chosen)[0] == 0
    with Image.open(sheet) as image:
        pixels = np.asarray(image)
    assert pixels.shape[1] > 2 * 3 * 20
    row = pixels.shape[0] // 3
    left = pixels.shape[1] - 2 * (3 * 20 + 6)
    originals = [pixels[-3 * 26 + i * 26 : -3 * 26 + i * 26 + 20, left : left + 60] for i in range(3)]
    augmented = [pixels[-3 * 26 + i * 26 : -3 * 26 + i * 26 + 20, left + 66 : left + 126] for i in range(3)]
    assert row > 26
    for original, changed in zip(originals, augmented, strict=True):
        np.testing.assert_array_equal(original, originals[0])  # p = 0
        assert not np.array_equal(original, changed)


@pytest.mark.slow
def test_metrics_of_a_checkpoint_beside_the_floor(
    data: Path, make_checkpoint, tmp_path: Path, command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    checkpoint = make_checkpoint(resolution=8, c_dim=0)
    result = tmp_path / "m.json"
    arguments = ("metrics", checkpoint, "--data", data, "--floor", data, "--images", 9, "--metrics", "fd,kid,pr")
    status, text = command(*arguments, "--json", result)
    assert status == 0, text
    facts = json.loads(result.read_text())
    assert facts["images"] == [9, 9]
    names = {f"{name}-EffNetLite0" for name in ("FD", "KID", "precision", "recall")}
    assert facts["metrics"].keys() == facts["floor"].keys() == names
    assert facts["floor"]["precision-EffNetLite0"] == facts["floor"]["recall-EffNetLite0"] == 1
    assert facts["floor"]["FD-EffNetLite0"] < 1e-3 < facts["metrics"]["FD-EffNetLite0"]
    assert len(list((tmp_path / "cache" / "stylert" / "features").iterdir())) == 1


def test_every_mistake_is_one_line(data: Path, pictures: Path, checkpoint: Path, tmp_path: Path, command) -> None:
    out = tmp_path / "x.zip"
    train = ("train", "--data", data, "--out", tmp_path / "run", *SMALL)
    for words, message in [
        (("dataset", pictures, "--out", out, "--resolution", 8), "not square"),
        (("dataset", pictures, "--out", out, "--resolution", 9), "power of two"),
        (("dataset", pictures, "--out", tmp_path, "--resolution", 8), "it is a folder"),
        (("dataset", pictures, "--out", tmp_path / "x.tar", "--resolution", 8), "must end in .zip"),
        (("augment-preview", data, "--out", tmp_path / "s.png", "--augpipe", "xy"), "'xy'"),
        (("augment-preview", data, "--out", tmp_path / "s.png", "--p", "2"), "0 to 1"),
        (("augment-preview", data, "--out", tmp_path / "s.none"), "format"),
        ((*train, "--aug", "sometimes"), "aug must be"),
        ((*train, "--p", 0.5), "--aug fixed"),
        ((*train, "--batch-gpu", 3), "batch_gpu"),
        ((*train, "--freeze-d", 99), "cannot freeze"),
        ((*train, "--set", "ema_kimg"), "NAME=VALUE"),
        ((*train, "--set", "ema_kimg=x"), "ema_kimg cannot be 'x'"),
        ((*train, "--set", "gama=1"), "unknown training option 'gama'"),
        ((*train, "--snap", 1e12), "the interval of snapshots must lie in 0.001 to 1000000000 kimg"),
        ((*train, "--keep", 10**12), "the number of snapshots to keep must lie in 0 to 2147483647"),
        ((*train, "--set", "lr=inf"), "lr cannot be 'inf'"),
        ((*train, "--seed", 10**20), "seed must lie"),
        ((*train, "here.safetensors"), "unexpected argument"),
        ((*train, "--set", "generator.batch=1"), "unknown training option 'generator.batch'"),
        ((*train[:4], data / "run", *SMALL, "--kimg", 0), "Not a directory"),
        ((*train, "--metrics", "ppl_w"), "of a run takes"),
        ((*train, "--metrics", "fid2k"), "--inception"),
        (("metrics", checkpoint, "--data", data, "--metrics", "fid50k,kid50k,pr50k,ppl_w"), "--inception"),
        (("metrics", checkpoint, "--data", data, "--metrics", "fid", "--inception", out), "local file"),
        (("metrics", checkpoint, "--metrics", "ppl_w", "--lpips", out), "local file"),
        (("metrics", checkpoint, "--metrics", "fd"), "--data"),
        (("metrics", checkpoint, "--data", data, "--metrics", "fib"), "unknown metric 'fib'"),
        (("metrics", checkpoint, "--data", data, "--metrics", "modes"), "parts.json"),
        (("metrics", checkpoint, "--data", data, "--metrics", "pr", "--images", 3), "takes 4 images"),
    ]:
        status, text = command(*words)
        (line,) = (line for line in text.splitlines() if line.startswith("stylert: "))
        assert status == 2
        assert message in line
    assert not out.exists()
    assert not (tmp_path / "run").exists()


def test_a_preset_trains_in_16_bits_only_where_the_processor_has_instructions(
    data: Path, tmp_path: Path, command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def has(*sets: str) -> None:
        monkeypatch.setattr("stylert.train.configuration.half_precision.instruction_sets", lambda: list(sets))

    def run(name: str, *words: object, kimg: float = 0.008) -> tuple[str, str]:
        status, text = command("train", "--data", data, "--out", tmp_path / name, *SMALL, "--kimg", kimg, *words)
        assert status == 0, text
        return read_metadata(tmp_path / name / "snapshot.safetensors")["train"]["half"], text

    has("avx2", "avx512_bf16")
    half, text = run("wide")
    assert half == "bf16"
    assert "no instructions" not in text
    has("avx2")
    half, text = run("narrow")
    assert half == "none"
    assert "no instructions" not in text
    half, text = run("asked", "--set", "half=bf16")
    assert half == "bf16"
    assert text.count("bf16 is slow here: this processor has no instructions for it") == 1
    half, text = run("wide", "--resume", "--set", "half=none", kimg=0.016)  # a run that moves to another machine
    assert half == "none"
    assert "half changes from bf16 to none" in text
