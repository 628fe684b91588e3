"""`stylert encoder train` and `stylert project --encoder` as somebody uses them, interrupted, and mistakes in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stylert.cli.latents import encoding
from stylert.core.files.digests import sha256_of
from stylert.core.images.similarity import psnr
from stylert.runtime.bundle import Bundle
from stylert.runtime.generator import Generator
from stylert.runtime.steering.encoder_file import read_encoder, write_encoder
from stylert.runtime.steering.latents_file import read_latents
from stylert.train.encoder import training
from stylert.train.encoder.refinement import Refiner
from tests.cli.conftest import Run

pytest.importorskip("efficientnet_lite_pytorch")
pytestmark = pytest.mark.usefixtures("pixel_distance")

SHORT = ("--steps", 2, "--batch", 2, "--test-images", 2)


@pytest.fixture
def encoder(run: Run, checkpoint: Path) -> Path:
    code, _, err = run("encoder", "train", checkpoint, "--out", "e.safetensors", *SHORT)
    assert code == 0, err
    return Path("e.safetensors").absolute()


def contents(folder: str) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_a_trained_encoder_tells_its_network_and_its_figures(run: Run, checkpoint: Path) -> None:
    words = ("encoder", "train", checkpoint, *SHORT, "--seed", 5)
    code, out, err = run(*words, "--out", "e.safetensors", "--json", "e.json")
    assert code == 0, err
    assert "encoder: 2 done" in err
    assert "wrote e.safetensors" in out
    found = read_encoder("e.safetensors")
    assert (found.network, found.resolution, found.facts["seed"]) == (sha256_of(checkpoint), 16, 5)
    document = json.loads(Path("e.json").read_text())
    assert document["encoder"] == found.facts
    for row in found.facts["held_out"]:
        assert f"{row['psnr_db']:.2f}" in out
    assert run(*words, "--out", "again.safetensors")[0] == 0
    assert Path("again.safetensors").read_bytes() == Path("e.safetensors").read_bytes()


def test_an_interrupted_training_leaves_no_file(run: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, steps = training.draw_pairs, []

    def stopped(*args: Any) -> object:
        steps.append(1)
        if len(steps) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(training, "draw_pairs", stopped)
    code, out, err = run("encoder", "train", checkpoint, "--out", "e.safetensors", *SHORT)
    assert (code, out) == (130, "")
    assert err.endswith("stopped\n")
    assert contents(".") == {}


def test_pictures_are_encoded_and_refined(run: Run, photos: Path, checkpoint: Path, encoder: Path, bundle: Bundle) -> None:
    words = ("project", photos, "--checkpoint", checkpoint, "--encoder", encoder)
    code, out, err = run(*words, "--steps", 0, "--out", "encoded", "--json", "encoded.json")
    assert code == 0, err
    code, out, err = run(*words, "--steps", 30, "--out", "refined", "--json", "refined.json")
    assert code == 0, err
    assert "refine: 30 done" in err
    assert "s of processor time for each picture" in out
    names = [f"pictures/{name}{suffix}" for name in "abc" for suffix in (".png", ".safetensors")]
    assert sorted(contents("refined")) == ["latents.safetensors", *names]
    found = read_latents("refined/latents.safetensors")
    settings = read_latents("refined/pictures/a.safetensors").facts["settings"]
    assert (settings["space"], settings["encoder_sha256"]) == ("w+", sha256_of(encoder))
    with Generator.load(bundle, threads=1) as generator:
        drawn = generator.synthesize(found.ws)
    rows = [json.loads(Path(f"{name}.json").read_text())["pictures"] for name in ("encoded", "refined")]
    for before, after, image in zip(*rows, drawn, strict=True):
        picture = np.asarray(Image.open(photos / f"{after['name']}.png"))
        assert after["psnr_db"] == pytest.approx(psnr(image, picture), abs=0.1)
        assert after["psnr_db"] > before["psnr_db"] + 1


def test_one_latent_for_all_layers_if_asked_for(run: Run, photos: Path, checkpoint: Path, encoder: Path) -> None:
    words = ("project", photos / "a.png", "--checkpoint", checkpoint, "--encoder", encoder, "--steps", 2)
    assert run(*words, "--space", "w", "--out", "w")[0] == 0
    assert run(*words, "--out", "plus")[0] == 0
    for folder, same in (("w", True), ("plus", False)):
        ws = read_latents(f"{folder}/latents.safetensors").ws
        assert np.array_equal(ws, np.repeat(ws[:, :1], 6, 1)) == same


def test_a_picture_that_is_no_image_of_the_network_and_has_another_size(run: Run, checkpoint: Path, encoder: Path) -> None:
    ramp = np.linspace(0, 255, 40).astype(np.uint8)
    Image.fromarray(np.broadcast_to(ramp[:, None], (40, 40))).save("ramp.png")
    code, _, err = run("project", "ramp.png", "--checkpoint", checkpoint, "--encoder", encoder, "--steps", 1, "--out", "out")
    assert code == 0, err
    assert "ramp: 40x40 to 16x16" in err
    assert np.asarray(Image.open("out/pictures/ramp.png")).shape == (16, 32, 3)


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(
    run: Run, photos: Path, checkpoint: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "GROUP", 2)
    words = ("project", photos, "--checkpoint", checkpoint, "--encoder", encoder, "--steps", 3)
    assert run(*words, "--out", "whole")[0] == 0
    real, groups = Refiner.refine, []

    def stopped(self: Refiner, *args: Any) -> object:
        groups.append(len(args[0]))
        if len(groups) == 2:
            raise KeyboardInterrupt
        return real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Refiner, "refine", stopped)
        assert run(*words, "--out", "parts")[0] == 130
    assert groups == [2, 1]
    Path("parts/pictures/b.safetensors").unlink()
    assert sorted(contents("parts")) == ["pictures/a.png", "pictures/a.safetensors", "pictures/b.png"]
    assert run(*words, "--out", "parts")[0] == 0
    assert contents("parts") == contents("whole")


def test_an_encoder_of_another_checkpoint_is_refused(
    run: Run, photos: Path, encoder: Path, make_checkpoint: Callable[..., Path]
) -> None:
    words = ("project", photos, "--checkpoint", make_checkpoint(another=True), "--encoder", encoder, "--out", "out")
    code, out, err = run(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "this encoder belongs to the network" in err
    assert not Path("out").exists()


def test_results_of_an_encoder_and_of_an_optimisation_do_not_mix(
    run: Run, photos: Path, checkpoint: Path, encoder: Path
) -> None:
    words = ("project", photos / "a.png", "--checkpoint", checkpoint, "--out", "out", "--steps", 1)
    assert run(*words, "--encoder", encoder)[0] == 0
    before = contents("out")
    code, _, err = run(*words, "--candidates", 0, "--starts", 1)
    assert (code, err.count("\n")) == (2, 1)
    assert "choose another --out, or --replace" in err
    assert contents("out") == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--encoder", "none.safetensors"), "none.safetensors does not exist"),
        (("--encoder", "photos/a.png"), "photos/a.png"),
        (("--encoder", "cut.safetensors"), "cut.safetensors"),
        (("--encoder", "changed.safetensors"), "do not match their sha256"),
        (("--encoder", "small.safetensors"), "its sizes are not those of the checkpoint"),
        (("--encoder", "short.safetensors"), "the encoder is damaged"),
        (("--encoder", "flat.safetensors"), "its curvature has other tensors"),
        (("--encoder", "e.safetensors", "--space", "z"), "the space is w or w+"),
        (("--encoder", "e.safetensors", "--noise", "optimised"), "without --encoder"),
        (("--encoder", "e.safetensors", "--explore", 1), "without --encoder"),
        (("--encoder", "e.safetensors", "--video"), "without --encoder"),
        (("--encoder", "e.safetensors", "--json", "e.safetensors"), "cannot write e.safetensors: it is an input"),
        (("--steps", 0), "takes 1 step or more"),
    ],
)  # fmt: skip
def test_every_mistake_of_a_projection_is_one_line(
    words: tuple[object, ...], message: str, run: Run, photos: Path, checkpoint: Path, encoder: Path
) -> None:
    from dataclasses import replace

    data, weights = encoder.read_bytes(), read_encoder(encoder)
    Path("cut.safetensors").write_bytes(data[: len(data) // 2])
    Path("changed.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    write_encoder("small.safetensors", replace(weights, resolution=8))
    write_encoder("short.safetensors", replace(weights, arrays={"mean": weights.arrays["mean"]}))
    write_encoder("flat.safetensors", replace(weights, curvature={}))
    before = contents(".")
    code, out, err = run("project", photos, "--checkpoint", checkpoint, "--out", "out", *words)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert message in err
    assert contents(".") == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("none.safetensors", "--out", "e.safetensors"), "none.safetensors"),
        (("m.safetensors", "--out", "m.safetensors"), "cannot write m.safetensors: it is an input"),
        (("m.safetensors", "--out", "other.safetensors"), "stylert did not write the file there as encoder"),
        (("m.safetensors", "--out", "e.json", "--json", "e.json"), "both write e.json"),
        (("m.safetensors", "--out", "e.safetensors", "--device", "tpu"), "unknown device"),
        (("m.safetensors", "--out", "e.safetensors", "--steps", 0), "--steps"),
    ],
)  # fmt: skip
def test_every_mistake_of_a_training_is_one_line(words: tuple[object, ...], message: str, run: Run, checkpoint: Path) -> None:
    for name in ("m.safetensors", "other.safetensors"):
        Path(name).write_bytes(checkpoint.read_bytes())
    before = contents(".")
    code, out, err = run(
        "encoder", "train", *words, *([] if "--steps" in words else ["--steps", 1]), "--batch", 2, "--test-images", 2
    )
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert message in err
    assert contents(".") == before
