"""Channels of measured values: their limits, their units, and the tiles that show them."""

import numpy as np
import pytest

from stylert.core.images.channels import Channel, check_channels_of_image, in_units, viewable


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "a\nb"},
        {"name": "a" * 65},
        {"unit": "K\0"},
        {"scale": 0.0},
        {"scale": -1.0},
        {"scale": float("nan")},
        {"scale": 1e31},
        {"offset": float("inf")},
        {"offset": True},
    ],
)
def test_a_channel_that_could_not_be_written_is_refused(fields: dict) -> None:
    with pytest.raises(ValueError, match="channel"):
        Channel(**{"name": "t2m", **fields})


def test_channels_of_an_image_are_as_many_as_it_has_with_one_name_each() -> None:
    a, b = Channel("a"), Channel("b")
    check_channels_of_image([a, b], 2)
    for channels, count in (([a], 2), ([], 0), ([Channel(str(i)) for i in range(9)], 9), ([a, a], 2)):
        with pytest.raises(ValueError, match="channels"):
            check_channels_of_image(channels, count)


def test_units_are_those_of_exact_arithmetic(rng: np.random.Generator) -> None:
    images = rng.uniform(-1.2, 1.2, (3, 2, 4, 5)).astype(np.float32)
    channels = [Channel("t", "K", 50.0, 270.0), Channel("q", "kg/kg", 1e-3, 0.02)]
    expected = np.stack([images[:, i].astype(np.float64) * c.scale + c.offset for i, c in enumerate(channels)], 1)
    got = in_units(images, channels)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-7)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pictures_are_shown_as_they_are(rng: np.random.Generator, channels: int) -> None:
    images = rng.integers(0, 256, (2, 3, 4, channels), np.uint8)
    assert viewable(images) is images


@pytest.mark.parametrize(("channels", "are_values"), [(2, True), (3, True), (5, False), (6, True), (8, False)])
def test_every_channel_is_a_grey_tile_in_its_order(rng: np.random.Generator, channels: int, are_values: bool) -> None:
    images = rng.integers(0, 255, (2, 3, 5, channels), np.uint8)
    shown = viewable(images, are_values)
    columns = shown.shape[2] // 5
    for i in range(shown.shape[1] // 3 * columns):
        row, column = divmod(i, columns)
        tile = shown[:, row * 3 : row * 3 + 3, column * 5 : column * 5 + 5, 0]
        assert (tile == (images[..., i] if i < channels else 255)).all()
