"""The dataset tool: exact pixels and labels, the same bytes, transforms, and refusals in one line."""

import io
import zipfile
from functools import partial

import numpy as np
import pytest
from PIL import Image

from stylert.core.errors import DataError, InputError
from stylert.core.images.pictures import decode_picture
from stylert.train.data import dataset_tool
from stylert.train.data.dataset import ImageDataset
from stylert.train.data.dataset_tool import convert_dataset
from tests.train.data.sources.source_files import encoded, idx_files, labels_of, refusal


@pytest.mark.parametrize("kind", ["zip", "folder"])
@pytest.mark.parametrize("labels", [None, [3, 0, 1, 1, 2], [[0.5, 1.0]] * 5])
def test_an_official_dataset_stays_unchanged(pixels, write_dataset, out, kind, labels):
    names = [f"00000/img{i:08d}.png" for i in range(5)]
    table = None if labels is None else [list(row) for row in zip(names, labels, strict=True)]
    source = write_dataset(dict(zip(names, pixels, strict=True)), table, kind)
    assert convert_dataset(source, out, 16)[:2] == (5, [])
    made = ImageDataset(out, use_labels=labels is not None)
    assert made.names == names
    np.testing.assert_array_equal(made.images.transpose(0, 2, 3, 1), pixels)
    assert labels_of(out) == table


def test_the_same_pictures_give_the_same_bytes(pixels, write_dataset, tmp_path):
    a = write_dataset({f"{i}.png": x for i, x in enumerate(pixels)}, name="a")
    b = write_dataset({f"{i}.png": x for i, x in reversed(list(enumerate(pixels)))}, kind="folder", name="b")
    convert_dataset(a, tmp_path / "x.zip", 8)
    convert_dataset(b, tmp_path / "y.zip", 8)
    assert (tmp_path / "x.zip").read_bytes() == (tmp_path / "y.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        assert {i.compress_type for i in archive.infolist()} == {zipfile.ZIP_STORED}


def test_many_images_are_numbered_in_folders_of_a_thousand(tmp_path):
    convert_dataset(idx_files(tmp_path, np.zeros((1002, 28, 28), np.uint8)), tmp_path / "x.zip", 4)
    assert ImageDataset(tmp_path / "x.zip").names[-2:] == ["00001/img00001000.png", "00001/img00001001.png"]


@pytest.mark.parametrize(("w", "h"), [(48, 32), (32, 48), (31, 17)])
def test_center_crop_keeps_the_middle_square(rng, write_dataset, out, w, h):
    image = rng.integers(0, 256, (h, w, 3), np.uint8)
    convert_dataset(write_dataset({"a.png": image}), out, 16, "center-crop")
    side, left, top = min(w, h), (w - min(w, h)) // 2, (h - min(w, h)) // 2
    expected = Image.fromarray(image[top : top + side, left : left + side]).resize((16, 16), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(ImageDataset(out).images[0].transpose(1, 2, 0), np.asarray(expected))


def test_center_crop_wide_keeps_four_to_three_between_black_bars(write_dataset, out):
    image = np.full((30, 80, 3), 255, np.uint8)
    image[:, :20] = image[:, 60:] = 100  # outside of the middle 40 x 30
    convert_dataset(write_dataset({"a.png": image}), out, 32, "center-crop-wide")
    made = ImageDataset(out).images[0]
    assert (made[:, 4:28] == 255).all()
    assert not made[:, :4].any()
    assert not made[:, 28:].any()


def test_pad_keeps_the_whole_picture_between_black_bars(write_dataset, out):
    convert_dataset(write_dataset({"a.png": np.full((20, 40, 3), 255, np.uint8)}), out, 32, "pad")
    made = ImageDataset(out).images[0]
    assert (made[:, 8:24] == 255).all()
    assert not made[:, :8].any()
    assert not made[:, 24:].any()


def test_an_oblong_picture_needs_a_transform(rng, write_dataset, out):
    source = write_dataset({"a.png": rng.integers(0, 256, (8, 12, 3), np.uint8)})
    assert "12x8, not square" in refusal(DataError, source, out, 8)
    assert not out.exists()


def test_transparency_becomes_white_and_exif_orientation_is_applied(rng, tmp_path, write_dataset):
    clear = np.zeros((8, 8, 4), np.uint8)
    convert_dataset(write_dataset({"a.png": clear}, name="clear"), tmp_path / "white.zip", 8)
    assert (ImageDataset(tmp_path / "white.zip").images == 255).all()
    image, exif = rng.integers(0, 256, (8, 8, 3), np.uint8), Image.Exif()
    exif[0x112] = 6  # rotate by 90 degrees clockwise
    convert_dataset(write_dataset({"a.png": encoded(image, exif=exif)}, name="turned"), tmp_path / "upright.zip", 8)
    np.testing.assert_array_equal(ImageDataset(tmp_path / "upright.zip").images[0].transpose(1, 2, 0), np.rot90(image, -1))


def test_the_first_picture_decides_between_grey_and_color(rng, write_dataset, tmp_path):
    grey, color = rng.integers(0, 256, (8, 8), np.uint8), rng.integers(0, 256, (8, 8, 3), np.uint8)
    first_grey = write_dataset({"a.png": grey, "b.png": color}, name="g")
    first_color = write_dataset({"a.png": color, "b.png": grey}, name="c")
    assert "'b.png' has colors" in refusal(DataError, first_grey, tmp_path / "x.zip", 8)
    convert_dataset(first_grey, tmp_path / "x.zip", 8, grey=True)
    made = ImageDataset(tmp_path / "x.zip").images
    assert made.shape == (2, 1, 8, 8)
    np.testing.assert_array_equal(made[0, 0], grey)
    convert_dataset(first_color, tmp_path / "y.zip", 8)
    np.testing.assert_array_equal(ImageDataset(tmp_path / "y.zip").images[1], np.stack([grey] * 3))


def test_corrupt_pictures_are_listed_or_skipped_and_their_labels_with_them(pixels, write_dataset, out):
    images = {f"{i}.png": encoded(x) for i, x in enumerate(pixels)}
    images["1.png"] = images["1.png"][:50]
    images["3.png"] = b"nothing"
    source = write_dataset(images, [[n, i] for i, n in enumerate(images)])
    message = refusal(DataError, source, out, 16)
    assert all(part in message for part in ("2 of 5", "1.png", "3.png", "--skip-corrupt"))
    assert "object at 0x" not in message
    assert not out.exists()
    assert not list(out.parent.iterdir())
    count, skipped, _ = convert_dataset(source, out, 16, skip_corrupt=True)
    assert count == 3
    assert [s.partition(" ")[0] for s in skipped] == ["1.png", "3.png"]
    np.testing.assert_array_equal(ImageDataset(out).images.transpose(0, 2, 3, 1), pixels[[0, 2, 4]])
    assert [label for _, label in labels_of(out)] == [0, 2, 4]


def test_a_source_with_damaged_pictures_only_is_refused(write_dataset, out):
    assert "no picture that can be decoded" in refusal(DataError, write_dataset({"a.png": b"x"}), out, 8, skip_corrupt=True)


def test_a_decompression_bomb_is_not_decoded(write_dataset, out, monkeypatch):
    monkeypatch.setattr(dataset_tool, "decode_picture", partial(decode_picture, max_pixels=1000))
    source = write_dataset({"a.png": np.zeros((40, 40, 3), np.uint8)})
    assert "40x40 pixels are too many" in refusal(DataError, source, out, 8)


@pytest.mark.parametrize(
    "labels", [[["0.png", 1]], [[f"{i}.png", -1] for i in range(5)], [[f"{i}.png", "x"] for i in range(5)], 3]
)
def test_incomplete_or_invalid_labels_are_refused(pixels, write_dataset, out, labels):
    source = write_dataset({f"{i}.png": x for i, x in enumerate(pixels)}, labels)
    assert "dataset.json" in refusal(DataError, source, out, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [((48, "none"), "power of two"), ((2, "none"), "power of two"), ((16, "squeeze"), "unknown transform 'squeeze'")],
)
def test_refuses_wrong_resolutions_and_transforms(pixels, write_dataset, out, options, message):
    assert message in refusal(InputError, write_dataset({"a.png": pixels[0]}), out, *options)


def test_refuses_unknown_sources_and_outputs(pixels, write_dataset, tmp_path, out):
    source = write_dataset({"a.png": pixels[0]})
    assert "must end in .zip" in refusal(InputError, source, tmp_path / "folder", 16)
    assert "the source itself" in refusal(InputError, source, source, 16)
    assert "does not exist" in refusal(DataError, tmp_path / "none", out, 16)
    (tmp_path / "text.txt").write_text("hello")
    assert "none of what can be read" in refusal(DataError, tmp_path / "text.txt", out, 16)
    (tmp_path / "bare").mkdir()
    assert "no pictures" in refusal(DataError, tmp_path / "bare", out, 16)


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_grey_with_and_without_transparency_is_one_grey_dataset(rng, write_dataset, out, order):
    grey, grey_alpha = rng.integers(0, 256, (16, 16), np.uint8), rng.integers(0, 256, (16, 16, 2), np.uint8)
    source = write_dataset({f"{order[0]}.png": grey, f"{order[1]}.png": encoded(grey_alpha)}, kind="folder")
    convert_dataset(source, out, 16)
    assert ImageDataset(out).images.shape == (2, 1, 16, 16)
    np.testing.assert_array_equal(ImageDataset(out).images, ImageDataset(source).images)


@pytest.mark.parametrize("kind", ["16 bits", "transparency", "exif", "palette", "cmyk", "webp"])
def test_training_sees_the_pixels_that_the_tool_writes(rng, write_dataset, out, kind):
    values, exif = rng.integers(0, 256, (16, 16, 4), np.uint8), Image.Exif()
    exif[0x112] = 5
    name, data = {
        "16 bits": ("a.png", encoded(rng.integers(0, 65536, (16, 16)).astype(np.uint16))),
        "transparency": ("a.png", encoded(values)),
        "exif": ("a.jpg", encoded(values[..., :3], "jpeg", exif=exif)),
        "palette": ("a.gif", encoded(values[..., :3], "gif")),
        "cmyk": ("a.tif", Image.fromarray(values, "CMYK")),
        "webp": ("a.webp", encoded(values, "webp")),
    }[kind]
    if kind == "cmyk":
        buffer = io.BytesIO()
        data.save(buffer, "tiff")
        data = buffer.getvalue()
    source = write_dataset({name: data}, kind="folder")
    convert_dataset(source, out, 16)
    np.testing.assert_array_equal(ImageDataset(source).images, ImageDataset(out).images)


def test_an_output_that_is_the_source_by_another_name_is_refused(pixels, write_dataset, tmp_path):
    source = write_dataset({"a.png": pixels[0]})
    (tmp_path / "other.zip").hardlink_to(source)
    assert "the source itself" in refusal(InputError, source, tmp_path / "other.zip", 16)
