"""No command loses a file that it did not write: inputs, checkpoints beside a bundle, and files of another kind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylert.cli import main as cli
from stylert.cli.latents.drawing import mix
from stylert.cli.picture_options import PictureOptions
from stylert.core.errors import BundleError
from stylert.export.pipeline import export_bundle
from stylert.runtime.bundle import Bundle
from stylert.runtime.engines import build_engine
from tests.cli.test_cli import refuse
from tests.test_faults import contents

#: Runs `stylert`, checks that it is refused in one line, and returns the line.
Refuse = Callable[..., str]


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refuse:
    return lambda *args: refuse(capfd, monkeypatch, *args)


@pytest.fixture
def place(bundle: Bundle, checkpoint: Path, tmp_path: Path) -> Path:
    """A folder with a checkpoint, a bundle, pictures, results and a picture that stylert made."""
    place = tmp_path / "place"
    shutil.copytree(bundle.path, place / "b")
    shutil.copyfile(checkpoint, place / "m.safetensors")
    (place / "images").mkdir()
    for i in range(3):
        Image.fromarray(np.full((16, 16, 3), i, np.uint8)).save(place / "images" / f"{i}.png")
    (place / "results.json").write_text("{}")
    mix(place / "b", [0], [1], "coarse", place / "mix.png", 1.0, PictureOptions(), lambda *_: None)
    return place


def test_an_output_that_would_cost_a_file_is_refused(place: Path, refused: Refuse) -> None:
    before = contents(place)
    b, m, images, results = place / "b", place / "m.safetensors", place / "images", place / "results.json"
    (place / "hard.safetensors").hardlink_to(m)
    verify = ("verify", b, "--seeds", 1, "--backend", "onnxruntime", "--json")
    metrics = ("metrics", m, "--metrics", "ppl_w", "--images", 2, "--json")
    train = ("train", "--kimg", 0.01, "--batch", 4, "--preset", "cpu-small", "--data", images)
    for args, words in [
        ((*verify, b / "bundle.json"), "belongs to other files"),
        ((*verify, b / "mapping.onnx"), "as JSON"),
        ((*verify, m, "--against", m), "is an input"),
        ((*metrics, m), "is an input"),
        ((*metrics, place / "hard.safetensors"), "is an input"),
        (("bench", b, "--json", m), "as JSON"),
        (("bench", "compare", results, results, "--html", results), "is an input"),
        (("bench", "report", results, "--out", results), "is an input"),
        (("doctor", "--json", m), "as JSON"),
        (("doctor", "--json", "/dev/null"), "not a regular file"),
        (("import", m, "--out", m), "is an input"),
        (("import", m, "--out", place / "hard.safetensors"), "is an input"),
        (("import", m, "--out", results), "as safetensors"),
        (("import", m, "--out", place / "run" / "snapshot.safetensors", "--training", place / "run"), "both write"),
        (("dataset", images, "--out", images / "0.png", "--resolution", 16), "as zip"),
        (("augment-preview", images, "--out", images / "1.png"), "in its folder"),
        (("again", place / "mix.png", "--bundle", b, "--out", place / "mix.png"), "is an input"),
        ((*train, "--out", images), "choose another folder"),
        ((*train, "--out", images / "run"), "choose another folder"),
    ]:
        line = refused(*args)
        assert words in line, (args, line)
        assert {k: v for k, v in contents(place).items() if k != "hard.safetensors"} == before, args


def test_generators_of_a_run_are_not_replaced_by_others(place: Path, refused: Refuse) -> None:
    run, m = place / "run", place / "m.safetensors"
    run.mkdir()
    for name in ("best.safetensors", "snapshot.safetensors"):
        shutil.copyfile(m, run / name)
    before = contents(place)
    for words in (("import", m), ("watermark", "train", m, "--steps", 1)):
        assert "in the folder of a training run" in refused(*words, "--out", run / "best.safetensors")
    assert contents(place) == before


def test_a_new_run_is_not_started_beside_the_generator_of_another(place: Path, refused: Refuse) -> None:
    run = place / "run"
    run.mkdir()
    shutil.copyfile(place / "m.safetensors", run / "model.safetensors")
    before = contents(place)
    train = ("train", "--kimg", 0.01, "--batch", 4, "--preset", "cpu-small", "--data", place / "images", "--out", run)
    assert "already holds model.safetensors" in refused(*train, "--transfer", run / "model.safetensors")
    assert contents(place) == before


HOLD = """
import sys
from stylert.core.files.locks import locked_folder
with locked_folder(sys.argv[1]):
    print("held", flush=True)
    input()
"""


def test_two_runs_never_train_in_one_folder(
    place: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = place / "run"
    train = ("train", "--kimg", "0.01", "--batch", "4", "--preset", "cpu-small", "--data", place / "images", "--out", run)
    command = [sys.executable, "-c", HOLD, str(run)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as held:
        assert held.stdout is not None
        assert held.stdout.readline() == "held\n"
        monkeypatch.setattr(sys, "argv", ["stylert", *map(str, train)])
        monkeypatch.setattr(
            "stylert.train.data.dataset.ImageDataset.__init__", lambda *_, **__: pytest.fail("the images were read")
        )
        with pytest.raises(SystemExit) as e:
            cli.main()
        held.communicate("\n")
    assert e.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "another process is writing there" in line
    assert not run.exists(), "the first process has written nothing, and the second one neither"


def test_a_bundle_is_replaced_with_its_engines_and_pictures_but_not_with_files_of_the_user(
    place: Path, checkpoint: Path, refused: Refuse
) -> None:
    b = place / "b"
    export = ("export", checkpoint, "--out", b, "--precision", "fp32", "--backend", "onnxruntime", "--verify-seeds", 0)
    build_engine(Bundle.load(b), "onnxruntime", "fp32")
    for name in ("m.safetensors", "pictures/seed0000.png", "engines/notes.txt", "NOTES"):
        (b / name).parent.mkdir(exist_ok=True)
        (b / name).write_bytes(b"of the user")
        before = contents(place)
        line = refused(*export)
        assert f"also holds {name}; move" in line
        assert contents(place) == before
        (b / name).unlink()
    export_bundle(checkpoint, b, ["fp32"], backends=["onnxruntime"], verify_seeds=1)
    assert (b / "worst.fp32.onnxruntime.png").is_file()
    assert not (b / "engines").exists()
    export_bundle(checkpoint, b, ["fp32"], backends=["onnxruntime"])
    assert not (b / "worst.fp32.onnxruntime.png").exists()


def test_a_bundle_behind_a_link_is_replaced_and_the_link_stays(place: Path, checkpoint: Path) -> None:
    (place / "link").symlink_to("b")
    export_bundle(checkpoint, place / "link", ["fp32"], backends=[])
    assert (place / "link").is_symlink()
    assert set(Bundle.load(place / "b").precisions) == {"fp32"}


def test_an_empty_folder_becomes_a_bundle(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert set(export_bundle(checkpoint, tmp_path / "empty", ["fp32"], backends=[]).precisions) == {"fp32"}


def test_a_name_that_is_not_utf8_costs_no_bundle(place: Path, checkpoint: Path, refused: Refuse) -> None:
    named = place / os.fsdecode(b"m\xe4.safetensors")
    shutil.copyfile(checkpoint, named)
    options = ("--precision", "fp32", "--backend", "onnxruntime", "--verify-seeds", 0)
    export_bundle(named, place / "b", ["fp32"], backends=["onnxruntime"])
    assert Bundle.load(place / "b").provenance["checkpoint"] == "m\\xe4.safetensors"
    before = contents(place)
    for bundle in (os.fsdecode(b"b\xff"), os.fsdecode(b"\xff/b")):
        assert "not UTF-8" in refused("export", checkpoint, "--out", place / bundle, *options)
        assert "not UTF-8" in refused("build", place / bundle)
    assert contents(place) == before


def test_what_cannot_be_read_back_replaces_no_bundle(place: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(place)
    save = Bundle.save

    def damaged(bundle: Bundle) -> None:
        save(bundle)
        (bundle.path / "bundle.json").write_text("{")

    monkeypatch.setattr(Bundle, "save", damaged)
    with pytest.raises(BundleError):
        export_bundle(checkpoint, place / "b", ["fp32"], backends=["onnxruntime"])
    monkeypatch.undo()
    assert contents(place) == before


def test_a_link_leads_to_no_document_that_may_be_replaced(place: Path, refused: Refuse) -> None:
    (place / "link.json").symlink_to("b/bundle.json")
    before = contents(place)
    assert "belongs to other files" in refused("doctor", "--json", place / "link.json")
    assert contents(place) == before


@pytest.mark.parametrize(
    "command", ["mix b --rows 0 --cols 1 --out f.png", "sweep b --seeds 0 --out f.png", "generate b --seeds 0 --grid --out g"]
)
def test_pictures_of_others_are_not_drawn_over(
    place: Path, refused: Refuse, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(place)
    (place / "g").mkdir()
    for name in ("f.png", "g/grid.png"):
        (place / name).write_text("my thesis")
    before = contents(place)
    assert "stylert did not draw the file there" in refused(*command.split(), "--backend", "onnxruntime", "--precision", "fp32")
    assert contents(place) == before


def test_a_new_run_counts_no_snapshot_of_others_as_its_own(place: Path, refused: Refuse) -> None:
    (place / "r").mkdir()
    (place / "r" / "snapshot-000097.safetensors").write_bytes(b"of another run")
    line = refused("train", "--data", place / "images", "--out", place / "r", "--preset", "cpu-small", "--keep", 1)
    assert "already holds snapshot-000097.safetensors" in line
    assert (place / "r" / "snapshot-000097.safetensors").read_bytes() == b"of another run"
