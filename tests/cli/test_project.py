"""`stylert project` as somebody uses it: pictures in, files out, interrupted and resumed, and mistakes in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from stylert.core.files.digests import sha256_of
from stylert.core.files.locks import locked_folder
from stylert.core.images.similarity import psnr
from stylert.core.seeds import z_from_seeds
from stylert.export.pipeline import export_bundle
from stylert.runtime.bundle import Bundle
from stylert.runtime.generator import Generator
from stylert.runtime.media.recipes import read_recipe
from stylert.runtime.steering.latents_file import read_latents
from stylert.train.projection.projector import Projector
from tests.cli.conftest import Run

QUICK = ("--steps", 4, "--candidates", 16, "--starts", 2)


def contents(folder: str) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.usefixtures("pixel_distance")
def test_pictures_become_latents_that_draw_them_again(run: Run, photos: Path, checkpoint: Path, bundle: Bundle) -> None:
    settings = ("--checkpoint", checkpoint, "--steps", 60, "--candidates", 64, "--out", "out", "--json", "table.json")
    code, out, err = run("project", photos, photos / "../photos/a.png", *settings)
    assert (code, err.count("\n")) == (2, 1)  # a.png is there twice
    code, out, err = run("project", photos, *settings, "--video", "--noise", "optimised", "--space", "w+")
    assert code == 0, err
    assert "wrote out/latents.safetensors: latents of 3 pictures" in out
    assert "c: 120 done" in err
    names = [f"pictures/{name}{suffix}" for name in "abc" for suffix in (".mp4", ".noise.safetensors", ".png", ".safetensors")]
    assert sorted(contents("out")) == ["latents.safetensors", *names]
    found = read_latents("out/latents.safetensors")
    assert (found.names, found.network) == (("a", "b", "c"), sha256_of(checkpoint))
    table = json.loads(Path("table.json").read_text())
    assert table["settings"]["space"] == "w+"
    code, _, err = run(
        "generate", bundle.path, "--latents", "out/latents.safetensors", "--seeds", "0-2", "--out", "drawn", "--threads", 1
    )
    assert code == 0, err
    for row, name in zip(table["pictures"], "abc", strict=True):
        target, drawn = (np.asarray(Image.open(f"{folder}/{name}.png")) for folder in ("photos", "drawn"))
        pair = np.asarray(Image.open(f"out/pictures/{name}.png"))
        np.testing.assert_array_equal(pair[:, :16], target)
        assert np.abs(pair[:, 16:].astype(int) - drawn).max() <= 1
        assert row["name"] == name
        assert row["psnr_db"] == pytest.approx(psnr(pair[:, 16:], target), abs=1e-3)
        assert set(row) == {"name", "psnr_db", "psnr_with_noise_db", "distance", "picture_sha256"}
    assert read_recipe("drawn/a.png").ws == found.sha256


@pytest.mark.usefixtures("pixel_distance")
def test_optimised_noise_fits_the_inputs_of_a_bundle(run: Run, photos: Path, checkpoint: Path) -> None:
    code, _, err = run("project", photos / "a.png", "--checkpoint", checkpoint, "--out", "out", *QUICK, "--noise", "optimised")
    assert code == 0, err
    noisy = export_bundle(checkpoint, "noisy", precisions=("fp32",), noise="input")
    noise = load_file("out/pictures/a.noise.safetensors")
    latents = read_latents("out/latents.safetensors")
    with Generator.load(noisy, threads=1) as generator:
        image = generator.synthesize(latents.ws, noise)[0]
    assert psnr(image, np.asarray(Image.open(photos / "a.png"))) == pytest.approx(
        read_latents("out/pictures/a.safetensors").facts["psnr_with_noise_db"], abs=0.1
    )


@pytest.mark.usefixtures("pixel_distance")
def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(
    run: Run, photos: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("project", photos, "--checkpoint", checkpoint, *QUICK, "--explore", 0.05, "--noise", "optimised", "--space", "w+")
    assert run(*words, "--out", "whole", "--json", "whole.json")[0] == 0
    real, projected = Projector.project, []

    def stopped(self: Projector, *args: object) -> object:
        projected.append(args[4])
        if args[4] == "b":
            raise KeyboardInterrupt
        return real(self, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Projector, "project", stopped)
        code, _, err = run(*words, "--out", "parts", "--json", "parts.json")
    assert (code, projected) == (130, ["a", "b"])
    assert err.endswith("stopped\n")
    assert sorted(contents("parts")) == [f"pictures/a{end}" for end in (".noise.safetensors", ".png", ".safetensors")]
    first = contents("parts")
    code, _, err = run(*words, "--out", "parts", "--json", "parts.json")
    assert code == 0
    assert "1 of 3 pictures are there already" in err
    assert "a: 8 done" not in err
    assert contents("parts") == contents("whole")
    assert Path("parts.json").read_bytes() == Path("whole.json").read_bytes()
    assert first.items() <= contents("parts").items()


@pytest.mark.usefixtures("pixel_distance")
def test_results_of_other_settings_or_pictures_stay_unless_they_may_be_replaced(
    run: Run, photos: Path, checkpoint: Path, make_checkpoint: Callable[..., Path]
) -> None:
    words = ("project", photos / "a.png", "--out", "out")
    same = ("--checkpoint", checkpoint, *QUICK)
    assert run(*words, *same)[0] == 0
    before = contents("out")
    Image.open(photos / "b.png").save("a.png")
    for other in (
        (*words, *same, "--seed", 1),
        (*words, "--checkpoint", make_checkpoint(another=True), *QUICK),
        ("project", "a.png", "--out", "out", *same),
    ):
        code, _, err = run(*other)
        assert (code, err.count("\n")) == (2, 1)
        assert "choose another --out, or --replace" in err
        assert contents("out") == before
    assert run("project", "a.png", "--out", "out", *same, "--replace")[0] == 0
    assert contents("out").keys() == before.keys()
    assert contents("out")["latents.safetensors"] != before["latents.safetensors"]
    assert run("project", "a.png", "--out", "out", *same, "--video")[0] == 0  # makes what is missing
    assert "pictures/a.mp4" in contents("out")


@pytest.mark.usefixtures("pixel_distance")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give pictures, or --self-test"),
        (("photos", "--self-test", 2), "give pictures, or --self-test"),
        (("none.png",), "none.png does not exist"),
        (("photos", "wide.png"), "48x32, not square"),
        (("photos", "--space", "z"), "the space is w or w+"),
        (("photos", "--noise", "none"), "the noise is const or optimised"),
        (("photos", "--transform", "crop"), "--transform is one of"),
        (("photos", "--candidates", 1), "--candidates is 0, or from --starts"),
        (("photos", "--candidates", 10_001), "--candidates is 0, or from --starts"),
        (("photos", "--out", "photos/out"), "among the pictures"),
        (("photos", "--out", "wide.png"), "it is a file"),
        (("photos", "--json", "wide.png"), "stylert did not write the file there as JSON"),
        (("photos", "--checkpoint", "wide.png"), "wide.png"),
        (("photos", "--lpips", "none.pth"), "none.pth"),
        (("--self-test", 1, "--psi", "a"), "--psi takes numbers"),
        (("--self-test", 1, "--psi", "1,1"), "names a truncation twice"),
        (("photos", "--json", "out/latents.safetensors"), "--out and --json both write"),
        (("photos", "--json", "out/pictures/a.safetensors"), "--out and --json both write"),
    ],
)  # fmt: skip
def test_every_mistake_is_one_line_and_leaves_no_file(
    words: tuple[object, ...], message: str, run: Run, photos: Path, checkpoint: Path
) -> None:
    Image.new("RGB", (48, 32)).save("wide.png")
    given = list(words)
    for option, value in (("--checkpoint", checkpoint), ("--out", "out")):
        given += [] if option in given else [option, value]
    before = contents(".")
    code, out, err = run("project", *given, *([] if "--candidates" in given else QUICK))
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert message in err
    assert contents(".") == before


@pytest.mark.usefixtures("pixel_distance")
def test_two_at_once_do_not_write_into_one_folder(run: Run, photos: Path, checkpoint: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        other = locked_folder("out")
        pool.submit(other.__enter__).result()  # a thread has its own locks
        code, _, err = run("project", photos, "--checkpoint", checkpoint, "--out", "out", *QUICK)
        pool.submit(other.__exit__, None, None, None).result()
    assert (code, err.count("\n"), "another process is writing there" in err) == (2, 1, True), err


@pytest.mark.usefixtures("pixel_distance")
def test_files_of_others_stay(run: Run, photos: Path, checkpoint: Path) -> None:
    Path("out/pictures").mkdir(parents=True)
    Path("out/pictures/b.png").write_bytes((photos / "c.png").read_bytes())
    before = contents("out")
    code, _, err = run("project", photos, "--checkpoint", checkpoint, "--out", "out", *QUICK)
    assert (code, err.count("\n")) == (2, 1)
    assert contents("out") == before


@pytest.mark.usefixtures("pixel_distance")
def test_the_self_test_tells_mean_and_worst_of_each_psi(run: Run, checkpoint: Path, bundle: Bundle) -> None:
    words = ("project", "--self-test", 2, "--psi", "1,0.5", "--checkpoint", checkpoint, "--out", "out", "--json", "a.json")
    code, out, err = run(*words, *QUICK)
    assert code == 0, err
    rows = json.loads(Path("a.json").read_text())["pictures"]
    assert [row["name"] for row in rows] == [f"psi{psi}-seed000{seed}" for psi in ("1", "0.5") for seed in (0, 1)]
    for psi, pair in (("1", rows[:2]), ("0.5", rows[2:])):
        values = [row["psnr_db"] for row in pair]
        assert f"psi {psi}: PSNR {np.mean(values):.2f} dB in the mean and {min(values):.2f} dB at worst, 2 images" in out
    with Generator.load(bundle, threads=1) as generator:
        image = generator.synthesize(generator.map(z_from_seeds([1], 24), 0.5))[0]
    target = np.asarray(Image.open("out/pictures/psi0.5-seed0001.png"))[:, :16]
    assert np.abs(target.astype(int) - image).max() <= 1


@pytest.mark.slow
def test_the_features_of_efficientnet_find_an_own_image(run: Run, photos: Path, checkpoint: Path) -> None:
    """With features alone, an image of the network comes nearer than the nearest of the random latents."""
    values = []
    for steps in (1, 60):
        words = ("project", photos / "a.png", "--checkpoint", checkpoint, "--out", f"out{steps}", "--pixel-weight", 0)
        code, _, err = run(*words, "--steps", steps, "--candidates", 64, "--starts", 1)
        assert code == 0, err
        values.append(read_latents(f"out{steps}/pictures/a.safetensors").facts)
    assert values[1]["distance"] < 0.5 * values[0]["distance"]
    assert values[1]["psnr_db"] > values[0]["psnr_db"] + 2
