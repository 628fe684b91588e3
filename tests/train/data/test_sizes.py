"""The dataset tool on images that are not square."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylert.cli.training.dataset import parse_size
from stylert.core.errors import DataError, InputError
from stylert.train.data.dataset import ImageDataset
from stylert.train.data.dataset_tool import convert_dataset, fitted


@pytest.mark.parametrize("size", [(64, 32), (40, 24), (28, 48)])
@pytest.mark.parametrize("transform", ["center-crop", "pad"])
def test_pictures_get_the_size_that_is_asked(
    tmp_path: Path, rng: np.random.Generator, size: tuple[int, int], transform: str
) -> None:
    (tmp_path / "in").mkdir()
    for i, (height, width) in enumerate([(50, 90), (90, 50), (64, 64)]):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(tmp_path / "in" / f"{i}.png")
    convert_dataset(tmp_path / "in", tmp_path / "out.zip", size, transform)
    dataset = ImageDataset(tmp_path / "out.zip")
    assert dataset.images.shape == (3, 3, size[1], size[0])
    assert dataset.size_text == f"{size[0]}x{size[1]} px"


def test_a_crop_keeps_the_middle_and_a_border_the_whole() -> None:
    y, x = np.mgrid[:60, :100]
    image = Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))
    cropped = np.asarray(fitted(image, (32, 64), "center-crop", "a"))
    assert cropped[:, 0, 0].mean() == pytest.approx(35, abs=2)  # 30 of the 100 columns are kept
    assert cropped[:, -1, 0].mean() == pytest.approx(64, abs=2)
    padded = np.asarray(fitted(image, (100, 100), "pad", "a"))
    np.testing.assert_array_equal(padded[20:80], np.asarray(image))
    assert not padded[:20].any()


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((1000, 50), "such as"),
        ((64, 2), "such as"),
        ((8192, 4096), "such as"),
        (48, "power of two"),
        ((64, 32.0), "width and height"),
    ],
)
def test_sizes_that_no_network_has_are_refused(tmp_path: Path, size: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        convert_dataset(tmp_path, tmp_path / "out.zip", size)  # type: ignore[arg-type]


def test_proportions_are_kept_without_a_transform(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("L", (80, 48)).save(tmp_path / "in" / "a.png")
    with pytest.raises(DataError, match="80x48, not of the proportions of 64x32"):
        convert_dataset(tmp_path / "in", tmp_path / "out.zip", (64, 32))
    convert_dataset(tmp_path / "in", tmp_path / "out.zip", (40, 24))
    with pytest.raises(InputError, match="center-crop-wide is for square images"):
        convert_dataset(tmp_path / "in", tmp_path / "x.zip", (64, 32), "center-crop-wide")


def test_sizes_as_texts() -> None:
    assert (parse_size("256"), parse_size("256x128"), parse_size("256X128")) == (256, (256, 128), (256, 128))
    for text in ("", "x", "1x2x3", "64x", "6 4", "-1.5"):
        with pytest.raises(InputError, match="width and height such as 256x128"):
            parse_size(text)
