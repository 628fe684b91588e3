"""`stylert disentanglement` as somebody uses it: a page and figures, and mistakes in one line."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylert.cli.latents import disentangling
from stylert.core.files.digests import sha256_of
from stylert.core.seeds import z_from_seeds
from stylert.models.checkpoint import load_generator
from stylert.train.sampling import generate
from tests.cli.conftest import Run
from tests.train.projection.pixel_distance import PixelDistance

QUICK = ("--images", 80, "--paths", 4, "--edits", 3)
#: Elements without an end tag
VOID = {"meta", "img", "br", "link", "input", "hr"}


class MeanColours:
    """Features that take no network: the mean of each colour in each quarter of an image."""

    name = identity = "colours"
    width = 12

    def __call__(self, images: np.ndarray) -> np.ndarray:
        n, h, w, c = images.shape
        return images.reshape(n, 2, h // 2, 2, w // 2, c).mean((2, 4), dtype=np.float64).reshape(n, -1)


class Page(HTMLParser):
    """Checks that each element ends where it should, and collects what a browser would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(autouse=True)
def quick_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare pixels and read mean colours in place of features, which take longer."""
    monkeypatch.setattr(disentangling, "_networks", lambda *_: (PixelDistance(), MeanColours()))


@pytest.fixture
def scores(checkpoint: Path, tmp_path: Path) -> Path:
    """The red of 60 images, and numbers that have nothing to do with them."""
    red = generate(load_generator(checkpoint), range(60))[..., 0].mean((1, 2))
    path = tmp_path / "scores.csv"
    chance = np.random.default_rng(0).normal(size=60)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("seed", "red", "chance"), *zip(range(60), red, chance, strict=True)])
    return path


@pytest.fixture
def directions(run: Run, checkpoint: Path, scores: Path, tmp_path: Path) -> Path:
    for command in (("scores", checkpoint, scores), ("pca", checkpoint, "--count", 2)):
        assert run("directions", *command, "--out", f"{command[0]}.safetensors")[0] == 0
    assert run("directions", "join", "scores.safetensors", "pca.safetensors", "--out", "all.safetensors")[0] == 0
    return tmp_path / "all.safetensors"


def test_the_page_is_whole_and_loads_nothing(run: Run, checkpoint: Path, scores: Path, directions: Path) -> None:
    inputs = ("--directions", directions, "--scores", scores)
    code, out, err = run("disentanglement", checkpoint, *inputs, *QUICK, "--out", "r.html", "--json", "r.json")
    assert code == 0, err
    assert "wrote r.html" in out
    assert "directions: 4 done" in err
    document = json.loads(Path("r.json").read_text(encoding="utf-8"))
    assert document["checkpoint_sha256"] == sha256_of(checkpoint)
    red, chance = document["attributes"]
    assert (red["counts"], red["remark"], chance["counts"], chance["remark"]) == (True, "", False, "read badly")
    assert red["correlation"] > 0.99
    assert document["counted"] == 1
    for space, value in document["separability"].items():
        assert value == pytest.approx(np.exp(red["entropy"][space]))
    moved, _, first, _ = document["directions"]
    assert (moved["target"], moved["main"], first["target"], first["main"]) == ("red", "red", None, "red")
    assert moved["slopes"]["red"] > 0.1  # a direction of a score raises it
    assert moved["leakage"] is None  # no other attribute counts
    assert moved["strengths"] == [-2, -1, 0, 1, 2]
    assert moved["changes"]["red"][2] == moved["distances"][2] == 0
    text = Path("r.html").read_text(encoding="utf-8")
    sources = Page(text).sources
    assert len(sources) == 4 * 5
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?://|url\(|@import|<script", text)
    for name in ("red", "chance", "pc0", "pc1"):
        assert name in text


def test_the_same_seed_writes_the_same_bytes_and_another_does_not(
    run: Run, checkpoint: Path, scores: Path, directions: Path
) -> None:
    inputs = ("--directions", directions, "--scores", scores, "--names", "pc1", *QUICK)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run("disentanglement", checkpoint, *inputs, "--seed", seed, "--out", f"{name}.html")[0] == 0
    a, b, c = (Path(f"{name}.html").read_bytes() for name in "abc")
    assert a == b != c


def test_a_checkpoint_alone_has_its_path_length(run: Run, checkpoint: Path) -> None:
    code, _, err = run("disentanglement", checkpoint, *QUICK, "--out", "r.html", "--json", "r.json")
    assert code == 0, err
    document = json.loads(Path("r.json").read_text(encoding="utf-8"))
    assert list(document["path_length"]) == ["z", "z, ends", "w", "w, ends"]
    assert all(value > 0 for value in document["path_length"].values())
    assert (document["attributes"], document["directions"], document["separability"]) == ([], [], {})
    assert Page(Path("r.html").read_text(encoding="utf-8")).sources == []


def test_the_parts_of_a_dataset_are_attributes(run: Run, checkpoint: Path, directions: Path, tmp_path: Path) -> None:
    """Half of the images are dark, and one layer says so. Its name is no HTML."""
    write_parts(tmp_path / "parts.zip", 16)
    inputs = ("--data", "parts.zip", "--directions", directions, "--images", 80, "--paths", 0, "--edits", 3)
    code, _, err = run("disentanglement", checkpoint, *inputs, "--out", "r.html", "--json", "r.json")
    assert code == 0, err
    document = json.loads(Path("r.json").read_text(encoding="utf-8"))
    assert [a["name"] for a in document["attributes"]] == ["<b>light 0", "<b>light 1"]
    assert all(a["correlation"] > 0.99 for a in document["attributes"])
    assert document["attributes"][0]["share"] == pytest.approx(1 - document["attributes"][1]["share"])
    text = Path("r.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;light 0" in text
    Page(text)


def write_parts(path: Path, side: int) -> None:
    random = np.random.default_rng(0)
    choices = {}
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(40):
            buffer = io.BytesIO()
            pixels = random.integers(0, 60, (side, side, 3)) + 150 * (i % 2)
            Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
            archive.writestr(f"{i:02d}.png", buffer.getvalue())
            choices[f"{i:02d}.png"] = [i % 2]
        archive.writestr("parts.json", json.dumps({"layers": ["<b>light"], "choices": choices}))


def test_mistakes_end_in_one_line_and_write_nothing(
    run: Run, checkpoint: Path, make_checkpoint: Callable[..., Path], directions: Path, scores: Path, tmp_path: Path
) -> None:
    another, labelled = make_checkpoint(another=True), make_checkpoint(c_dim=3)
    write_parts(tmp_path / "larger.zip", 32)
    (tmp_path / "plain.zip").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "larger.zip") as parts, zipfile.ZipFile(tmp_path / "no-parts.zip", "w") as archive:
        archive.writestr("00.png", parts.read("00.png"))
    for name, lines in (("same", ["seed,a", *(f"{i},1" for i in range(20))]), ("few", ["seed,a", "0,1", "1,2"])):
        (tmp_path / f"{name}.csv").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "notes.html").write_text("mine", encoding="utf-8")
    for arguments, message in [
        ((another, "--directions", directions), "belong to the network"),
        ((checkpoint, "--directions", scores), "scores.csv"),
        ((checkpoint, "--directions", directions, "--names", "smile"), "there is no direction"),
        ((checkpoint, "--directions", directions, "--names", ""), "--names is empty"),
        ((checkpoint, "--scores", "missing.csv"), "missing.csv"),
        ((checkpoint, "--scores", "same.csv"), "not all the same"),
        ((checkpoint, "--scores", "few.csv"), "8 scores or more"),
        ((labelled, "--scores", scores), "takes labels"),
        ((checkpoint, "--data", "larger.zip"), "parts are read at one size"),
        ((checkpoint, "--data", "plain.zip"), "plain.zip"),
        ((checkpoint, "--data", "no-parts.zip"), "parts.json is missing"),
        ((checkpoint, "--directions", directions, "--strengths", "1,x"), "--strengths"),
        ((checkpoint, "--directions", directions, "--strengths", "0"), "--strengths needs one"),
        ((checkpoint, "--directions", directions, "--strengths", "1e9"), "strength"),
        ((checkpoint, "--paths", 0), "nothing to measure"),
        ((checkpoint, "--names", "pc0"), "--names"),
        ((checkpoint, "--images", 3), "--images"),
        (("missing.safetensors",), "missing.safetensors"),
    ]:
        code, out, err = run("disentanglement", *arguments, "--out", "r.html")
        assert (code, out, err.count("\n")) == (2, "", 1), (arguments, err)
        assert message in err, arguments
        assert not Path("r.html").exists()
    for arguments in (("--out", "notes.html"), ("--out", checkpoint), ("--out", "r.html", "--json", "r.html")):
        code, _, err = run("disentanglement", checkpoint, *arguments)
        assert (code, err.count("\n")) == (2, 1), err
    assert Path("notes.html").read_text(encoding="utf-8") == "mine"


def test_missing_weights_of_lpips_end_in_one_line(
    run: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    code, _, err = run("disentanglement", checkpoint, "--lpips", "vgg16.pt", "--out", "r.html")
    assert (code, err.count("\n")) == (2, 1)
    assert "vgg16.pt" in err


def test_a_direction_of_a_style_is_meant_for_its_score(run: Run, checkpoint: Path, scores: Path) -> None:
    assert run("directions", "scores", checkpoint, scores, "--styles", 1, "--out", "styles.safetensors")[0] == 0
    inputs = ("--directions", "styles.safetensors", "--scores", scores, *QUICK)
    code, _, err = run("disentanglement", checkpoint, *inputs, "--out", "r.html", "--json", "r.json")
    assert code == 0, err
    found = json.loads(Path("r.json").read_text(encoding="utf-8"))["directions"]
    assert [d["target"] for d in found] == ["red", "chance"]
    assert found[0]["distances"][-1] > 0


def test_scored_images_of_classes_are_drawn_with_their_labels(
    run: Run, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """The score is the red of the images with these labels, so other labels would not be read as well."""
    import torch

    path = make_checkpoint(c_dim=3)
    generator, classes = load_generator(path), np.arange(60) * 7 % 3
    with torch.no_grad():
        images = generator(torch.from_numpy(z_from_seeds(range(60), generator.cfg.z_dim)), torch.eye(3)[classes])
    red = (images[:, 0].clamp(-1, 1)).mean((1, 2)).numpy()
    with open(tmp_path / "classes.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("seed", "class", "red"), *zip(range(60), classes, red, strict=True)])
    code, _, err = run("disentanglement", path, "--scores", "classes.csv", *QUICK, "--out", "r.html", "--json", "r.json")
    assert code == 0, err
    assert json.loads(Path("r.json").read_text(encoding="utf-8"))["attributes"][0]["correlation"] > 0.99
