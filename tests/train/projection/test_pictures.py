"""Pictures of every kind and size become targets of the network's size, or are refused in one line."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylert.core.errors import DataError, InputError, StylertError
from stylert.core.images.grids import as_uint8
from stylert.train.projection.pictures import TargetPicture, read_pictures


def test_pixels_of_the_right_size_stay_and_come_back_from_the_target(tmp_path: Path, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
    pixels[0, :2] = [[0] * 3, [255] * 3]
    Image.fromarray(pixels).save(tmp_path / "a.b.png")
    (picture,) = read_pictures([tmp_path / "a.b.png"], 16, 3, "none")
    np.testing.assert_array_equal(picture.pixels, pixels)
    assert (picture.name, picture.note) == ("a.b", "")
    assert picture.image.abs().max() == 1
    np.testing.assert_array_equal(as_uint8(picture.image.numpy())[0], pixels)


@pytest.mark.parametrize(
    ("mode", "channels", "expected"),
    [("L", 3, [70, 70, 70]), ("RGBA", 3, [255 - 128, 255, 255]), ("I;16", 3, [70, 70, 70]), ("RGB", 1, [30]), ("L", 1, [70])],
)
def test_grey_alpha_and_sixteen_bits_follow_the_rule_of_all_pictures(
    mode: str, channels: int, expected: list[int], tmp_path: Path
) -> None:
    values = {"L": np.uint8(70), "I;16": np.uint16(70 * 256 + 9), "RGB": np.array([0, 51, 0], np.uint8)}
    fill = values.get(mode, np.array([0, 255, 255, 128], np.uint8))
    Image.fromarray(np.broadcast_to(fill, (8, 8, *np.shape(fill))).copy()).save(tmp_path / "a.png")
    (picture,) = read_pictures([tmp_path / "a.png"], 8, channels, "none")
    np.testing.assert_array_equal(picture.pixels, np.broadcast_to(np.uint8(expected), (8, 8, channels)))
    assert (picture.note == "colors dropped") == (mode == "RGB")


def test_other_sizes_are_stated_and_ambiguous_ones_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (32, 48, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(pixels[:, :32]).save(tmp_path / "square.png")
    with pytest.raises(DataError, match="48x32, not square: choose a --transform"):
        read_pictures([tmp_path / "wide.png"], 16, 3, "none")
    (square,) = read_pictures([tmp_path / "square.png"], 16, 3, "none")
    assert square.note == "32x32 to 16x16"
    (cropped,) = read_pictures([tmp_path / "wide.png"], 16, 3, "center-crop")
    assert cropped.note == "48x32 to 16x16 by center-crop"
    middle = Image.fromarray(pixels[:, 8:40]).resize((16, 16), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(cropped.pixels, np.asarray(middle))


def test_folders_and_zips_give_their_pictures_in_order(tmp_path: Path, rng: np.random.Generator) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    stored = {name: rng.integers(0, 256, (8, 8, 3), np.uint8) for name in ("b", "a", "c d")}
    for name, pixels in stored.items():
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{name}.png")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for name, pixels in stored.items():
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "png")
            archive.writestr(f"{name}.png", buffer.getvalue())
    for place in (tmp_path / "photos", tmp_path / "z.zip"):
        pictures = read_pictures([place], 8, 3, "none")
        assert [picture.name for picture in pictures] == ["a", "b", "c_d"]
        for picture, name in zip(pictures, ("a", "b", "c d"), strict=True):
            np.testing.assert_array_equal(picture.pixels, stored[name])


def test_wrong_inputs_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty").mkdir()
    file = tmp_path / "a.png"
    cases: list[tuple[list[Path], tuple[int, str], type[StylertError], str]] = [
        ([tmp_path / "none.png"], (3, "none"), DataError, "does not exist"),
        ([tmp_path / "text.png"], (3, "none"), DataError, "cannot be read"),
        ([tmp_path / "empty"], (3, "none"), DataError, "holds no pictures"),
        ([file, tmp_path / "a.jpg"], (3, "none"), InputError, "two pictures are named a"),
        ([file, file], (3, "none"), InputError, "two pictures are named a"),
        ([file], (4, "none"), InputError, "4 channels"),
        ([file], (3, "crop"), InputError, "--transform is one of"),
        ([Path("/dev/zero")], (3, "none"), DataError, "not a regular file"),
    ]
    for places, (channels, transform), error, message in cases:
        with pytest.raises(error, match=message) as e:
            read_pictures(places, 8, channels, transform)
        assert "\n" not in str(e.value)
    monkeypatch.setattr("stylert.train.projection.pictures.MAX_PIXELS", 100)
    with pytest.raises(InputError, match="at most 1 picture"):
        read_pictures([file, tmp_path / "a.jpg"], 8, 3, "none")


@pytest.mark.parametrize("name", ["-rf", "..", ".hidden", "a/b\x1b[0m", "ä" * 300, ""])
def test_names_of_results_are_plain(name: str) -> None:
    from stylert.runtime.steering.latents_file import NAME
    from stylert.train.projection.pictures import result_name

    assert NAME.fullmatch(result_name(f"{name}.png"))


def test_a_target_has_the_layout_of_the_network(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (4, 4, 3), np.uint8)
    image = TargetPicture("a", pixels).image
    assert image.shape == (1, 3, 4, 4)
    np.testing.assert_allclose(image[0, 2, 1, 3], (int(pixels[1, 3, 2]) - 127.5) / 127.5, rtol=1e-6)
