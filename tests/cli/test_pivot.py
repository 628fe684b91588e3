"""`stylert pivot` as somebody uses it: pictures and their latents in, a checkpoint that draws them out, and mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylert.core.files.digests import sha256_of
from stylert.core.images.similarity import psnr
from stylert.core.provenance.signing import says_generated
from stylert.export.pipeline import export_bundle
from stylert.models.checkpoint import read_generator
from stylert.runtime.bundle import Bundle
from stylert.runtime.generator import Generator
from stylert.runtime.media.image_metadata import read_comment
from stylert.runtime.steering.latents_file import Latents, read_latents, write_latents
from tests.cli.conftest import Run

pytestmark = pytest.mark.usefixtures("pixel_distance")


@pytest.fixture
def inputs(bundle: Bundle, checkpoint: Path) -> tuple[object, ...]:
    """Two pictures that the network cannot draw, the latents of images like them, and the options that name all of it."""
    Path("photos").mkdir()
    with Generator.load(bundle, threads=1) as g:
        ws = g.map(np.random.standard_normal((2, bundle.model["z_dim"])), psi=0.7)
        for name, image in zip("ab", g.synthesize(ws), strict=True):
            image[2:8, 3:9] = 255 - image[2:8, 3:9]
            Image.fromarray(image).save(f"photos/{name}.png")
    write_latents("found.safetensors", Latents(sha256_of(checkpoint), ws, ("a", "b")))
    return ("photos", "--checkpoint", checkpoint, "--latents", "found.safetensors")


def test_the_new_checkpoint_draws_the_pictures_from_their_latents(
    run: Run, inputs: tuple[object, ...], checkpoint: Path, tmp_path: Path
) -> None:
    code, out, err = run("pivot", *inputs, "--out", "tuned", "--steps", 60, "--rate", 0.005, "--json", "table.json")
    assert code == 0, err
    assert sorted(str(p.relative_to("tuned")) for p in Path("tuned").rglob("*") if p.is_file()) == [
        "latents.safetensors",
        "model.safetensors",
        "pictures/a.png",
        "pictures/b.png",
    ]
    table = json.loads(Path("table.json").read_text())
    assert [row["name"] for row in table["pictures"]] == ["a", "b"]
    tuned = read_generator("tuned/model.safetensors")
    assert tuned.info["pivotal_tuning"]["checkpoint_sha256"] == sha256_of(checkpoint)
    latents = read_latents("tuned/latents.safetensors")
    bundle = export_bundle("tuned/model.safetensors", tmp_path / "tuned-bundle", ["fp32"])
    latents.check_network(bundle)
    with Generator.load(bundle, threads=1) as g:
        images = g.synthesize(latents.ws)
    for row, image in zip(table["pictures"], images, strict=True):
        picture = np.asarray(Image.open(f"photos/{row['name']}.png"))
        assert row["psnr_db"] > row["psnr_before_db"] + 1
        assert psnr(image, picture) == pytest.approx(row["psnr_db"], abs=0.1)
        trio = np.asarray(Image.open(f"tuned/pictures/{row['name']}.png"))
        np.testing.assert_array_equal(trio[:, :16], picture)
        assert np.abs(trio[:, 32:].astype(int) - image).max() <= 1
        assert says_generated(read_comment(Path(f"tuned/pictures/{row['name']}.png")))
    assert f"{table['others_psnr_db']['mean']:.2f} dB in the mean" in out
    # A picture may be left out, and a rerun replaces what the first one wrote.
    code, _, err = run("pivot", "photos/b.png", *inputs[1:], "--out", "tuned", "--steps", 1)
    assert code == 0, err
    assert read_latents("tuned/latents.safetensors").names == ("b",)


def test_mistakes_are_one_line_and_write_nothing(run: Run, inputs: tuple[object, ...], checkpoint: Path) -> None:
    _, *options = inputs
    Image.new("RGB", (16, 16)).save("c.png")
    Image.new("RGB", (16, 24)).save("d.png")
    Path("text").write_text("x")
    ws = read_latents("found.safetensors").ws
    Path("projected").mkdir()
    write_latents("projected/latents.safetensors", Latents(sha256_of(checkpoint), ws, ("a", "b")))
    write_latents("other.safetensors", Latents("ab" * 32, ws, ("a", "b")))
    for arguments, message in (
        (("c.png", *options, "--out", "new"), "has no picture c"),
        (("d.png", *options, "--out", "new"), "square"),
        (("photos", *options[:2], "--latents", "other.safetensors", "--out", "new"), "belongs to the network abab"),
        (("photos", *options[:2], "--latents", "text", "--out", "new"), "text"),
        (("photos", "--checkpoint", "text", *options[2:], "--out", "new"), "text"),
        (("none", *options, "--out", "new"), "does not exist"),
        (("photos", *options, "--out", "text"), "it is a file"),
        (("photos", *options, "--out", "photos/new"), "lies among the pictures"),
        (("photos", *options, "--out", checkpoint.parent), "it is an input"),
        (("photos", *options, "--out", "new", "--rate", 0), "--rate"),
        (("photos", *options, "--out", "new", "--json", "new/model.safetensors"), "--out and --json both write"),
        (("photos", *options, "--out", "new", "--json", "new/pictures/a.png"), "--out and --json both write"),
        (("photos", *options, "--out", "projected"), "it is not of `stylert pivot`"),
    ):
        code, _, err = run("pivot", *arguments, "--steps", 1)
        assert (code, err.count("\n")) == (2, 1), (arguments, err)
        assert message in err.lower() or message in err
    assert not Path("new").exists()
