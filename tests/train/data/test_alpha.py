"""Transparency that is kept: from a picture, through the dataset tool, to the images of training."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylert.core.images.pictures import decode_picture
from stylert.train.data.dataset import ImageDataset
from stylert.train.data.dataset_tool import convert_dataset


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(("mode", "kept"), [("L", "LA"), ("LA", "LA"), ("RGB", "RGBA"), ("RGBA", "RGBA"), ("P", "RGBA")])
def test_a_picture_keeps_its_pixels_and_its_alpha(rng: np.random.Generator, mode: str, kept: str) -> None:
    bands = Image.new(mode, (1, 1)).getbands()
    array = rng.integers(0, 256, (6, 9, len(bands)), np.uint8)
    picture = Image.fromarray(array.squeeze() if len(bands) == 1 else array).convert("P" if mode == "P" else None)
    decoded = decode_picture(encoded(picture), alpha=True)
    assert decoded.mode == kept
    np.testing.assert_array_equal(np.asarray(decoded), np.asarray(picture.convert(kept)))


def test_a_transparent_color_and_sixteen_bits_become_alpha(rng: np.random.Generator) -> None:
    grey = Image.fromarray(rng.integers(0, 3, (8, 8), np.uint8))
    alpha = np.asarray(decode_picture(encoded(grey, transparency=2), alpha=True))[..., 1]
    np.testing.assert_array_equal(alpha, np.where(np.asarray(grey) == 2, 0, 255))
    deep = Image.fromarray(rng.integers(0, 2**16, (8, 8), np.uint16))
    assert decode_picture(encoded(deep), alpha=True).mode == "LA"


def test_the_dataset_tool_keeps_alpha_where_it_is_asked(tmp_path: Path, rng: np.random.Generator) -> None:
    (tmp_path / "in").mkdir()
    arrays = rng.integers(0, 256, (3, 16, 16, 4), np.uint8)
    for i, array in enumerate(arrays):
        Image.fromarray(array).save(tmp_path / "in" / f"{i}.png")
    convert_dataset(tmp_path / "in", tmp_path / "kept.zip", 16, alpha=True)
    kept = ImageDataset(tmp_path / "kept.zip")
    np.testing.assert_array_equal(kept.images, arrays.transpose(0, 3, 1, 2))
    assert kept.image_channels is None
    convert_dataset(tmp_path / "in", tmp_path / "flat.zip", 16)
    assert ImageDataset(tmp_path / "flat.zip").images.shape == (3, 3, 16, 16)
    convert_dataset(tmp_path / "in", tmp_path / "grey.zip", 16, grey=True, alpha=True)
    np.testing.assert_array_equal(ImageDataset(tmp_path / "grey.zip").images[:, 1], arrays[..., 3])


def test_transparent_pixels_do_not_bleed_when_a_picture_shrinks(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    array = np.zeros((32, 32, 4), np.uint8)
    array[:, :16] = (200, 10, 20, 255)
    array[:, 16:] = (0, 255, 0, 0)  # green that nobody sees
    Image.fromarray(array).save(tmp_path / "in" / "a.png")
    convert_dataset(tmp_path / "in", tmp_path / "out.zip", 8, "center-crop", alpha=True)
    image = ImageDataset(tmp_path / "out.zip").images[0]
    visible = image[3] > 64
    assert np.abs(image[1][visible].astype(int) - 10).max() <= 4
