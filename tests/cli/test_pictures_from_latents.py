"""`--latents`: the pictures of a file take the place of seeds in every command that draws, and `again` repeats them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylert.core.seeds import z_from_seeds
from stylert.runtime.bundle import Bundle
from stylert.runtime.generator import Generator
from stylert.runtime.steering.directions_file import write_directions
from stylert.runtime.steering.latents_file import Latents, write_latents
from tests.cli.conftest import Run
from tests.runtime.steering.random_files import random_directions

#: Seeds whose latents the file holds.
SEEDS = [7, 3, 11]
EDIT = ("--directions", "d.safetensors", "--direction", "smile=1")


@pytest.fixture
def latents(bundle: Bundle, tmp_path: Path) -> Path:
    """The latents of three seeds as a file, and the bundle and directions beside it."""
    shutil.copytree(bundle.path, tmp_path / "bundle")
    with Generator.load(bundle, threads=1) as generator:
        ws = generator.map(z_from_seeds(SEEDS, bundle.model["z_dim"]))
    origin = bundle.provenance["checkpoint_sha256"]
    write_latents(tmp_path / "l.safetensors", Latents(origin, ws, ("one", "two", "three")))
    rng = np.random.default_rng(0)
    write_directions(tmp_path / "d.safetensors", replace(random_directions(rng), network=origin))
    return tmp_path / "l.safetensors"


@pytest.mark.parametrize(
    ("command", "file"),
    [
        (("generate", "bundle", "--seeds", "{0,1,2}", "--grid", "--psi", 0.7), "grid.png"),
        (("generate", "bundle", "--seeds", "{0,1,2}", "--grid", "--psi", 0.7, "--cutoff", 2), "grid.png"),
        (("mix", "bundle", "--rows", "{0,2}", "--cols", "{1}", "--psi", 0.8), "a.png"),
        (("sweep", "bundle", "--seeds", "{1,2}", "--psi", "0,0.5,1"), "a.png"),
        (("interpolate", "bundle", "--seeds", "{2,0}", "--seconds", 0.5, "--fps", 10), "a.webp"),
        (("edit", "bundle", "--directions", "d.safetensors", "--direction", "smile=-1,2", "--seeds", "{0,1}"), "a.png"),
    ],
)
def test_a_file_of_latents_draws_the_picture_of_its_seeds_and_again_repeats_it(
    command: tuple[object, ...], file: str, latents: Path, run: Run
) -> None:
    def words(numbered: bool) -> list[object]:
        given: list[object] = []
        for word in command:
            if isinstance(word, str) and word.startswith("{"):
                numbers = [int(n) for n in word.strip("{}").split(",")]
                word = ",".join(str(n if numbered else SEEDS[n]) for n in numbers)
            given.append(word)
        return given

    pixels = {}
    for numbered in (False, True):
        out = Path("of-latents" if numbered else "of-seeds")
        place = out if file == "grid.png" else out / file
        option = ["--latents", latents] if numbered else []
        code, _, err = run(*words(numbered), "--out", place, *option, "--threads", 1)
        assert code == 0, err
        pixels[numbered] = np.asarray(Image.open(out / file).convert("RGB")).astype(int)
    assert np.abs(pixels[True] - pixels[False]).max() <= 1
    drawn, options = Path("of-latents") / file, ["--bundle", "bundle", "--threads", 1]
    options += ["--directions", "d.safetensors"] if command[0] == "edit" else []
    again = Path(f"again{drawn.suffix}")
    code, _, err = run("again", drawn, "--out", again, "--latents", latents, *options)
    assert code == 0, err
    assert again.read_bytes() == drawn.read_bytes()
    code, _, err = run("again", drawn, "--out", "b.png" if drawn.suffix == ".png" else "b.webp", *options)
    assert (code, err.count("\n")) == (2, 1)
    assert "--latents" in err


def test_single_images_have_the_names_of_their_pictures(latents: Path, run: Run) -> None:
    code, _, err = run("generate", "bundle", "--seeds", "0,2", "--latents", latents, "--out", "images", "--threads", 1)
    assert code == 0, err
    assert sorted(path.name for path in Path("images").iterdir()) == ["one.png", "three.png"]
    assert run("generate", "bundle", "--seeds", "7", "--out", "images", "--threads", 1)[0] == 0
    a, b = (np.asarray(Image.open(f"images/{name}.png")).astype(int) for name in ("one", "seed0007"))
    assert np.abs(a - b).max() <= 1
    again = ("again", "images/three.png", "--bundle", "bundle", "--threads", 1, "--out", "again.png")
    assert run(*again, "--latents", latents)[0] == 0
    assert Path("again.png").read_bytes() == Path("images/three.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("generate", "bundle", "--seeds", "3", "--out", "o", "--latents", "l.safetensors"), "pictures 0 to 2, not 3"),
        (("mix", "bundle", "--rows", "0", "--cols", "9", "--out", "a.png", "--latents", "l.safetensors"), "0 to 2, not 9"),
        (("generate", "bundle", "--seeds", "0", "--out", "o", "--latents", "none"), "none does not exist"),
        (("generate", "bundle", "--seeds", "0", "--out", "o", "--latents", "d.safetensors"), "holds no latents"),
        (("generate", "bundle", "--seeds", "0", "--out", "o", "--latents", "other.safetensors"), "belong to the network"),
        (("sweep", "bundle", "--seeds", "0", "--out", "l.safetensors", "--latents", "l.safetensors"), "it is an input"),
        (("edit", "bundle", *EDIT, "--seeds", "0", "--out", "l.safetensors", "--latents", "l.safetensors"), "it is an input"),
        (("interpolate", "bundle", "--seeds", "0,1", "--out", "a.webp", "--space", "z", "--latents", "l.safetensors"), "no z"),
        (("generate", "bundle", "--seeds", "0", "--class", 1, "--out", "o", "--latents", "l.safetensors"), "no label"),
        (("generate", "bundle", "--seeds", "0", "--cutoff", 9, "--out", "o", "--latents", "l.safetensors"), "cutoff"),
        (("generate", "bundle", "--seeds", "0", "--shards", 1, "--out", "o", "--latents", "l.safetensors"), "--shards"),
        (("again", "seed.png", "--bundle", "bundle", "--out", "a.png", "--latents", "l.safetensors"), "made from seeds"),
    ],
)  # fmt: skip
def test_every_mistake_is_one_line_and_leaves_no_file(
    words: tuple[object, ...], message: str, latents: Path, run: Run, rng: np.random.Generator
) -> None:
    write_latents("other.safetensors", Latents("cd" * 32, rng.standard_normal((1, 6, 20)).astype(np.float32), ("a",)))
    if words[0] == "again":
        assert run("generate", "bundle", "--seeds", "7", "--out", "s", "--threads", 1)[0] == 0
        shutil.move("s/seed0007.png", "seed.png")
        Path("s").rmdir()
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    code, out, err = run(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_again_refuses_latents_of_another_hash(latents: Path, run: Run) -> None:
    assert run("sweep", "bundle", "--seeds", 0, "--out", "a.png", "--latents", latents, "--threads", 1)[0] == 0
    origin = Bundle.load("bundle").provenance["checkpoint_sha256"]
    write_latents("other.safetensors", Latents(origin, np.zeros((1, 6, 20), np.float32), ("a",)))
    code, _, err = run("again", "a.png", "--bundle", "bundle", "--latents", "other.safetensors", "--out", "b.png")
    assert (code, err.count("\n")) == (2, 1)
    assert "but the recipe asks for" in err
