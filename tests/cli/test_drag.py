"""`stylert drag` as somebody uses it: handles in, a picture and its latents out, and mistakes in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylert.core.files.digests import sha256_of
from stylert.core.images.similarity import psnr
from stylert.core.provenance.signing import says_generated
from stylert.runtime.bundle import Bundle
from stylert.runtime.generator import Generator
from stylert.runtime.media.image_metadata import read_comment
from stylert.runtime.steering.latents_file import Latents, read_latents, write_latents
from tests.cli.conftest import Run

QUICK = ("--steps", 3, "--seconds", 600)


@pytest.fixture
def mask() -> Path:
    """A mask of the left half."""
    pixels = np.zeros((16, 16), np.uint8)
    pixels[:, :8] = 255
    Image.fromarray(pixels).save("mask.png")
    return Path("mask.png")


def pixels(path: str) -> np.ndarray:
    return np.asarray(Image.open(path, formats=["PNG"]))


def test_the_latents_draw_the_picture_with_every_engine(run: Run, checkpoint: Path, bundle: Bundle) -> None:
    words = ("drag", checkpoint, "--seed", 3, "--psi", 0.7, "--point", "4,4:9,4", "--point", "12,10:12.5,7", *QUICK)
    code, out, err = run(*words, "--out", "a", "--json", "a.json")
    assert code == 0, err
    assert "3 steps in" in out
    assert "see --steps" in err
    assert sorted(path.name for path in Path("a").iterdir()) == ["handles.png", "latents.safetensors", "picture.png"]
    latents = read_latents("a/latents.safetensors")
    assert (latents.names, latents.network) == (("seed0003",), sha256_of(checkpoint))
    facts = json.loads(Path("a.json").read_text(encoding="utf-8"))
    assert [row["handle"] for row in facts["handles"]] == ["4,4:9,4", "12,10:12.5,7"]
    assert (facts["steps"], facts["ending"], facts["outside_psnr_db"]) == (3, "steps", None)
    assert says_generated(read_comment(Path("a/picture.png")))
    code, _, err = run(
        "generate", bundle.path, "--latents", "a/latents.safetensors", "--seeds", 0, "--out", "b", "--threads", 1
    )
    assert code == 0, err
    assert psnr(pixels("b/seed0003.png"), pixels("a/picture.png")) > 50
    with Generator.load(bundle, threads=1) as generator:
        first = generator([3], psi=0.7)[0]
    assert psnr(first, pixels("a/picture.png")) < 50
    marked = pixels("a/handles.png")
    assert marked.shape == (256, 512, 3)
    assert np.abs(marked[8:256:16, 8:256:16].astype(int) - first)[13:].max() <= 1  # below all handles
    # The same command writes the same bytes, over its own earlier results.
    before = {path.name: path.read_bytes() for path in Path("a").iterdir()}
    assert run(*words, "--out", "a")[0] == 0
    assert {path.name: path.read_bytes() for path in Path("a").iterdir()} == before


def test_a_drag_goes_on_from_latents_and_a_mask_is_measured(run: Run, checkpoint: Path, mask: Path) -> None:
    assert run("drag", checkpoint, "--seed", 2, "--point", "3,3:5,5", "--out", "a", *QUICK)[0] == 0
    start = ("drag", checkpoint, "--latents", "a/latents.safetensors", "--mask", mask, "--json", "b.json")
    code, out, err = run(*start, "--point", "3,3:5,3", "--out", "b", *QUICK)
    assert code == 0, err
    facts = json.loads(Path("b.json").read_text(encoding="utf-8"))
    a, b = pixels("a/picture.png"), pixels("b/picture.png")
    assert facts["outside_psnr_db"] == pytest.approx(psnr(b[:, 8:], a[:, 8:]), abs=1e-3)
    assert facts["mask_sha256"] == sha256_of(mask)
    assert f"the image is the old one to {facts['outside_psnr_db']:.2f} dB" in out
    assert read_latents("b/latents.safetensors").names == ("seed0002",)
    # Truncation of latents is that of other commands.
    assert run(*start[:4], "--psi", 0.5, "--point", "3,3:5,3", "--out", "c", *QUICK)[0] == 0
    assert not np.array_equal(read_latents("c/latents.safetensors").ws, read_latents("b/latents.safetensors").ws)


def test_a_video_shows_every_step(run: Run, checkpoint: Path) -> None:
    av = pytest.importorskip("av")
    code, _, err = run("drag", checkpoint, "--point", "3,3:12,5", "--out", "a", *QUICK, "--video")
    assert code == 0, err
    with av.open("a/drag.mp4") as video:
        assert len(list(video.decode(video=0))) == 4


def test_a_network_with_classes_needs_one(run: Run, make_checkpoint: Callable[..., Path]) -> None:
    labelled = make_checkpoint(c_dim=3)
    words = ("drag", labelled, "--point", "3,3:5,5", *QUICK)
    code, _, err = run(*words, "--out", "a")
    assert (code, err) == (2, "stylert: this network has 3 classes: choose one with --class\n")
    assert run(*words, "--out", "a", "--class", 2)[0] == 0
    code, _, err = run(*words, "--out", "a", "--class", 3)
    assert (code, err.count("\n")) == (2, 1)


def test_mistakes_are_one_line_and_write_nothing(run: Run, checkpoint: Path, mask: Path, bundle: Bundle) -> None:
    Image.new("L", (15, 16), 255).save("small.png")
    Image.new("L", (16, 16), 100).save("black.png")
    Image.new("L", (16, 16), 100).save("picture.png")
    Path("text").write_text("x", encoding="utf-8")
    Path("theirs").mkdir()
    Image.new("L", (16, 16)).save("theirs/picture.png")
    Path("projected").mkdir()
    ws = np.zeros((1, 6, 20), np.float32)
    write_latents("projected/latents.safetensors", Latents(sha256_of(checkpoint), ws, ("a",)))
    write_latents("other.safetensors", Latents("ab" * 32, ws, ("a",)))
    point, new = ("--point", "3,3:5,5"), ("--out", "new")
    for arguments, message in (
        (("--point", "3,3", *new), "such as 20,30:26,30"),
        (("--point", "3,nan:5,5", *new), "such as 20,30:26,30"),
        (("--point", "3,3:16,5", *new), "coordinates go from 0 to 15"),
        (("--point", "-1,3:6,5", *new), "coordinates go from 0 to 15"),
        (("--point", "3,3:3,3", *new), "at its target already"),
        ((*point, *point, *new), "two handles begin at 3,3"),
        ((*(word for i in range(17) for word in ("--point", f"{i % 16},{i // 16}:8,8.5")), *new), "1 to 16 handles, not 17"),
        (new, "--point"),
        ((*point, *new, "--mask", "small.png"), "mask small.png is 15x16 and the image 16x16"),
        ((*point, *new, "--mask", "black.png"), "black everywhere"),
        ((*point, *new, "--mask", "text"), "mask text cannot be read"),
        ((*point, *new, "--mask", "none"), "none"),
        ((*point, *new, "--latents", "other.safetensors"), "belongs to the network abab"),
        ((*point, *new, "--latents", "text"), "text"),
        ((*point, *new, "--latents", "projected/latents.safetensors", "--seed", 1), "has the picture 0, not 1"),
        ((*point, *new, "--latents", "projected/latents.safetensors", "--class", 1), "--class is for seeds"),
        ((*point, *new, "--class", 1), "has no classes"),
        ((*point, *new, "--features", 32), "4, 8, 16 px, not 32"),
        ((*point, *new, "--seconds", 0), "--seconds"),
        ((*point, *new, "--rate", "inf"), "--rate"),
        ((*point, *new, "--json", "new/picture.png"), "--out and --json both write"),
        ((*point, "--out", "text"), "it is a file"),
        ((*point, "--out", "theirs"), "stylert did not draw"),
        ((*point, "--out", "projected"), "it is not of `stylert drag`"),
    ):
        code, _, err = run("drag", checkpoint, *arguments)
        assert (code, err.count("\n")) == (2, 1), (arguments, err)
        assert message.lower() in err.lower(), (arguments, err)
    code, _, err = run("drag", bundle.path, *point, *new)
    assert (code, err.count("\n")) == (2, 1)
    assert not Path("new").exists()


def test_a_server_takes_the_checkpoint_of_its_bundle_alone(
    run: Run, bundle: Bundle, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("x", encoding="utf-8")
    for checkpoint, message in (
        (make_checkpoint(another=True), "is the origin of none of these"),
        ("text", "text"),
        ("none", "none"),
        (bundle.path, str(bundle.path)),
    ):
        code, _, err = run("serve", bundle.path, "--port", 0, "--drag", checkpoint)
        assert (code, err.count("\n")) == (2, 1), err
        assert message in err
