"""A picture holds the channels of its image, alpha too, or is refused by name before anything is written."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylert.core.errors import InputError, OutputError
from stylert.runtime.media.pictures import check_channels, check_own_picture, save_image
from stylert.runtime.media.video import write_video


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_lossless_formats_keep_every_channel(tmp_path: Path, rng: np.random.Generator, suffix: str, channels: int) -> None:
    image = rng.integers(0, 256, (5, 7, channels), np.uint8)
    save_image(image, tmp_path / f"a{suffix}")
    with Image.open(tmp_path / f"a{suffix}", formats=("PNG", "TIFF")) as picture:
        assert picture.mode == {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
        np.testing.assert_array_equal(np.asarray(picture).reshape(image.shape), image)


@pytest.mark.parametrize(("suffix", "channels"), [(".png", 6), (".jpg", 4), (".gif", 2), (".webp", 5), (".bmp", 4)])
def test_a_format_that_cannot_hold_the_channels_is_refused_and_nothing_is_written(
    tmp_path: Path, suffix: str, channels: int
) -> None:
    path = tmp_path / f"a{suffix}"
    with pytest.raises(InputError, match=f"cannot write {channels} channels as"):
        save_image(np.zeros((4, 4, channels), np.uint8), path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("channels", [2, 4, 6])
@pytest.mark.parametrize("suffix", [".mp4", ".webp", ".gif"])
def test_videos_are_grey_or_rgb(tmp_path: Path, suffix: str, channels: int) -> None:
    if suffix == ".mp4":
        pytest.importorskip("av")
    with pytest.raises(InputError, match="holds 1 or 3"):
        write_video(tmp_path / f"a{suffix}", iter([np.zeros((2, 8, 8, channels), np.uint8)]), 10, "comment")
    assert list(tmp_path.iterdir()) == []
    check_channels(tmp_path / f"a{suffix}", 3, is_video=True)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".gif", ".bmp", ".tif"])
def test_on_a_full_disk_no_format_is_written_in_part(tmp_path: Path, rng: np.random.Generator, suffix: str) -> None:
    image = rng.integers(0, 256, (32, 32, 3), np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OutputError, match="File too large"):
            save_image(image, tmp_path / f"a{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.psd", "a.fits", "a.xyz", "a", "a.png.", ".png"])
def test_a_suffix_that_pillow_cannot_write_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot tell the image format"):
        save_image(np.zeros((4, 4, 3), np.uint8), tmp_path / name)


def test_a_picture_that_the_format_cannot_hold_is_one_line(tmp_path: Path) -> None:
    for suffix, side in ((".webp", 20_000), (".jpg", 70_000)):
        with pytest.raises(OutputError, match=f"cannot write {side} x 1 pixels"):
            save_image(np.zeros((1, side, 3), np.uint8), tmp_path / f"a{suffix}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".gif"])
def test_only_a_picture_that_stylert_drew_is_replaced(tmp_path: Path, rng: np.random.Generator, suffix: str) -> None:
    file, image = tmp_path / f"f{suffix}", rng.integers(0, 256, (8, 8, 3), np.uint8)
    check_own_picture(file)
    file.touch()
    check_own_picture(file)
    save_image(image, file, '{"AI-generated": true, "command": "mix"}')
    check_own_picture(file)
    save_image(image, tmp_path / f"foreign{suffix}")
    save_image(image, tmp_path / f"described{suffix}", '{"Title": "my cat"}')
    (tmp_path / f"thesis{suffix}").write_text("no picture")
    for name in ("foreign", "described", "thesis"):
        other = tmp_path / f"{name}{suffix}"
        content = other.read_bytes()
        with pytest.raises(OutputError, match="stylert did not draw the file there"):
            check_own_picture(other)
        assert other.read_bytes() == content
