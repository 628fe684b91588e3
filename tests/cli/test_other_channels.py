"""`stylert generate` for networks of other channels and shapes: arrays in units, tiles, and pictures with alpha."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylert.core.images.channels import Channel, in_units, viewable
from stylert.core.images.grids import as_uint8
from stylert.export.pipeline import export_bundle
from stylert.models.checkpoint import write_generator
from stylert.runtime.generator import Generator
from stylert.runtime.media.image_metadata import read_comment
from tests.cli.conftest import Run
from tests.export.networks import random_weights

Generate = Callable[..., str]

CHANNELS = (Channel("t2m", "K", 50.0, 270.0), Channel("u10", "m/s", 12.0, -1.0))


def bundle_of(folder: Path, channels: tuple[Channel, ...] | None, output: str | None = None, **changes: object) -> Path:
    """A bundle of a random network of 16x8 px, in fp32."""
    weights = random_weights(resolution=8, const_height=4, const_width=8, **changes)
    cfg = dataclasses.replace(weights.config, image_channels=channels)
    write_generator(folder / "a.safetensors", cfg, weights.arrays)
    return export_bundle(folder / "a.safetensors", folder / "bundle", ["fp32"], output=output, backends=()).path  # type: ignore[arg-type]


@pytest.fixture
def generated(run: Run) -> Generate:
    """Runs `stylert generate`, and returns all that it prints. A mistake has the exit code 2 and one line."""

    def generate(*words: object) -> str:
        code, out, err = run("generate", *words)
        assert code in (0, 2)
        return out if code == 0 else err

    return generate


@pytest.fixture
def values_bundle(tmp_path: Path) -> Path:
    return bundle_of(tmp_path, CHANNELS, img_channels=2)


def test_an_archive_holds_values_in_their_units_with_all_that_names_them(
    generated: Generate, values_bundle: Path, tmp_path: Path
) -> None:
    for _ in range(2):  # its own archive is replaced
        assert "images.npz" in generated(
            values_bundle, "--seeds", "0-2", "--out", tmp_path / "o", "--format", "npz", "--batch", 2
        )
    with Generator.load(values_bundle) as generator:
        expected = in_units(generator([0, 1, 2]), CHANNELS)
    with np.load(tmp_path / "o" / "images.npz", allow_pickle=False) as archive:
        np.testing.assert_allclose(archive["images"], expected, rtol=1e-5, atol=1e-3)
        assert archive["images"].shape == (3, 2, 8, 16)
        assert archive["seeds"].tolist() == [0, 1, 2]
        assert (archive["channels"].tolist(), archive["units"].tolist()) == (["t2m", "u10"], ["K", "m/s"])
        assert json.loads(str(archive["recipe"]))["seeds"] == "0-2"


def test_an_array_for_each_seed_is_written_and_none_replaced(generated: Generate, values_bundle: Path, tmp_path: Path) -> None:
    generated(values_bundle, "--seeds", "3,5", "--out", tmp_path / "o", "--format", "npy")
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == ["seed0003.npy", "seed0005.npy"]
    before = (tmp_path / "o" / "seed0005.npy").read_bytes()
    again = generated(values_bundle, "--seeds", "5,7", "--out", tmp_path / "o", "--format", "npy", "--psi", "0.5")
    assert "choose another folder" in again
    assert (tmp_path / "o" / "seed0005.npy").read_bytes() == before
    assert not (tmp_path / "o" / "seed0007.npy").exists()


def test_a_foreign_archive_is_not_replaced(generated: Generate, values_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "o").mkdir()
    np.savez(tmp_path / "o" / "images.npz", a=np.zeros(3))
    assert "did not write" in generated(values_bundle, "--seeds", "0", "--out", tmp_path / "o", "--format", "npz")


def test_pictures_and_grids_of_values_are_grey_tiles(generated: Generate, values_bundle: Path, tmp_path: Path) -> None:
    generated(values_bundle, "--seeds", "4", "--out", tmp_path / "o")
    with Generator.load(values_bundle) as generator:
        expected = viewable(as_uint8(generator([4])), are_values=True)[0, ..., 0]
    with Image.open(tmp_path / "o" / "seed0004.png", formats=["PNG"]) as picture:
        assert (picture.mode, picture.size) == ("L", (32, 8))
        np.testing.assert_array_equal(np.asarray(picture), expected)
    generated(values_bundle, "--seeds", "0-3", "--out", tmp_path / "o", "--grid")
    with Image.open(tmp_path / "o" / "grid.png", formats=["PNG"]) as picture:
        assert picture.mode == "L"


@pytest.mark.parametrize(("channels", "mode"), [(2, "LA"), (4, "RGBA")])
def test_pictures_keep_alpha_and_the_recipe(generated: Generate, tmp_path: Path, channels: int, mode: str) -> None:
    bundle = bundle_of(tmp_path, None, img_channels=channels)
    for suffix in ("png", "webp"):
        generated(bundle, "--seeds", "1", "--out", tmp_path / "o", "--format", suffix)
        with Image.open(tmp_path / "o" / f"seed0001.{suffix}", formats=["PNG", "WEBP"]) as picture:
            assert picture.size == (16, 8)
            assert picture.mode in (mode, "RGBA")
            alpha = np.asarray(picture.convert("RGBA"))[..., 3]
        with Generator.load(bundle) as generator:
            np.testing.assert_array_equal(alpha, generator([1])[0, ..., -1])
        assert json.loads(read_comment(tmp_path / "o" / f"seed0001.{suffix}"))["seeds"] == "1"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--format", "npz", "--grid"], "--grid writes one picture"),
        (["--format", "tiff"], "--format"),
        (["--format", "npz", "--shards", "2"], "--format is for single images"),
        (["--shards", "1"], "measured values (t2m, u10)"),
    ],
)
def test_mistakes_are_one_line(generated: Generate, values_bundle: Path, tmp_path: Path, words: list[str], reason: str) -> None:
    printed = generated(values_bundle, "--seeds", "0", "--out", tmp_path / "o", *words)
    assert reason in printed
    assert not (tmp_path / "o").exists()


def test_bytes_are_too_coarse_for_values(generated: Generate, tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, CHANNELS, "uint8", img_channels=2)
    assert "--output float" in generated(bundle, "--seeds", "0", "--out", tmp_path / "o", "--format", "npz")
