"""`stylert encode` as somebody uses it, with its latents in other commands, and mistakes in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylert.core.images.similarity import psnr
from stylert.runtime.bundle import Bundle
from stylert.runtime.steering.latents_file import read_latents
from tests.cli.conftest import Run
from tests.small_encoder import add_small_encoder, encoder_matrix


@pytest.fixture
def encoding(run: Run, bundle: Bundle) -> Bundle:
    shutil.copytree(bundle.path, "b")
    return add_small_encoder(Bundle.load("b"))


def test_pictures_become_latents_that_other_commands_take(run: Run, encoding: Bundle, photos: Path) -> None:
    code, out, err = run("encode", "b", photos, "--out", "l.safetensors", "--json", "l.json", "--threads", 1)
    assert (code, err) == (0, "")
    found = read_latents("l.safetensors")
    found.check_network(encoding)
    assert found.names == ("a", "b", "c")
    pixels = np.stack([np.asarray(Image.open(photos / f"{name}.png")) for name in found.names])
    expected = pixels.reshape(3, -1) @ encoder_matrix(encoding)
    np.testing.assert_allclose(found.ws.reshape(3, -1), expected, rtol=1e-3, atol=1e-3)
    assert run("generate", "b", "--latents", "l.safetensors", "--seeds", "0-2", "--out", "drawn")[0] == 0
    document = json.loads(Path("l.json").read_text())
    assert (document["encoder"], document["precision"]) == ("ab" * 32, "fp32")
    for number, row in enumerate(document["pictures"]):
        drawn = np.asarray(Image.open(f"drawn/{row['name']}.png"))
        assert row["psnr_db"] == pytest.approx(psnr(drawn, pixels[number]), abs=0.01)
        assert f"{row['psnr_db']:.2f}" in out
    assert "3 pictures, PSNR" in out


def test_a_picture_of_another_size_is_resized_with_a_note(run: Run, encoding: Bundle) -> None:
    Image.new("RGB", (50, 30), "red").save("wide.png")
    code, _, err = run("encode", "b", "wide.png", "--transform", "center-crop", "--out", "l.safetensors")
    assert (code, err) == (0, "wide: 50x30 to 16x16 by center-crop\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("plain", "photos", "--out", "l.safetensors"), "no 'fp32' encoder, in no precision"),
        (("none", "photos", "--out", "l.safetensors"), "none does not exist"),
        (("b", "photos", "--out", "l.safetensors", "--precision", "int8"), "only in: fp32"),
        (("b", "none.png", "--out", "l.safetensors"), "none.png"),
        (("b", "b/bundle.json", "--out", "l.safetensors"), "bundle.json"),
        (("b", "wide.png", "--out", "l.safetensors"), "wide.png"),
        (("b", "photos/a.png", "--out", "photos/a.png"), "cannot write photos/a.png"),
        (("b", "photos/a.png", "--out", "l.safetensors", "--json", "photos/a.png"), "cannot write photos/a.png"),
        (("b", "photos", "--out", "l.json", "--json", "l.json"), "both write l.json"),
    ],
)  # fmt: skip
def test_every_mistake_is_one_line(
    words: tuple[object, ...], message: str, run: Run, encoding: Bundle, bundle: Bundle, photos: Path
) -> None:
    shutil.copytree(bundle.path, "plain")
    Image.new("RGB", (50, 30)).save("wide.png")
    before = sorted(Path().rglob("*"))
    code, out, err = run("encode", *words)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert message in err
    assert sorted(Path().rglob("*")) == before
