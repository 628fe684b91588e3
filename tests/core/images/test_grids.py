"""Images become bytes as in the official tools; grids hold every image once, in order, and little else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylert.core.errors import InputError
from stylert.core.images.grids import Grid, as_uint8, make_grid


@given(st.integers(1, 200), st.integers(1, 3), st.integers(1, 3))
def test_a_grid_holds_the_images_row_by_row_and_is_near_to_square(n: int, h: int, w: int) -> None:
    images = np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1).repeat(h, 1).repeat(w, 2).repeat(3, 3)
    grid = make_grid(images)
    rows, columns = grid.shape[0] // h, grid.shape[1] // w
    assert rows * columns - n < columns
    assert rows <= columns <= max(2 * rows, 2)
    for i in range(rows * columns):
        r, c = divmod(i, columns)
        assert (grid[r * h : (r + 1) * h, c * w : (c + 1) * w] == (i if i < n else 255)).all()


def test_common_numbers_of_images_leave_no_cell_empty() -> None:
    for n in (1, 2, 4, 6, 8, 9, 12, 16, 24, 32, 64):
        grid = make_grid(np.zeros((n, 1, 1, 1), np.uint8))
        assert grid.size == n


def test_pixels_follow_the_official_conversion() -> None:
    x = np.array([-2.0, -1.0, 0.0, 0.5, 0.9999, 1.0, 3.0], np.float32).reshape(1, 1, 1, 7)
    assert as_uint8(x).ravel().tolist() == [0, 0, 128, 191, 255, 255, 255]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_value_that_is_not_finite_is_told_and_no_black_pixel(value: float, dtype: type[np.floating]) -> None:
    images = np.zeros((2, 3, 4, 4), dtype)
    images[1, 2, 3, 0] = value
    with pytest.raises(InputError, match="not finite"):
        as_uint8(images)


@pytest.mark.parametrize(
    "images", [None, [[0.5]], np.zeros((3, 4, 4)), np.zeros((1, 3, 4, 4), np.int32), np.zeros((1, 3, 4, 4), bool)]
)
def test_other_things_than_images_are_refused_by_type(images: np.ndarray) -> None:
    with pytest.raises(InputError, match="images are float"):
        as_uint8(images)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(0, 3), st.integers(1, 7))
def test_a_grid_that_gets_its_images_in_parts_is_the_grid_of_all(parts: list[int], skipped: int, columns: int) -> None:
    images = np.arange(1, sum(parts) + 1, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(2, 1).repeat(3, 2)
    grid = Grid(skipped + len(images), columns)
    grid.skip(skipped)
    for part in np.split(images, np.cumsum(parts)[:-1]):
        grid.add(part)
    white = np.full((skipped, 2, 3, 1), 255, np.uint8)
    np.testing.assert_array_equal(grid.picture, make_grid(np.concatenate([white, images]), columns))


IMAGES = np.zeros((2, 4, 3, 3), np.uint8)


@pytest.mark.parametrize(
    "images",
    [None, IMAGES[0], IMAGES[:0], IMAGES[:, :, :0], IMAGES.astype(np.float32), [[1]]],
)
def test_a_grid_of_other_things_than_images_is_refused(images: np.ndarray) -> None:
    with pytest.raises(InputError, match="a grid holds images"):
        make_grid(images)
    with pytest.raises(InputError, match="a grid holds images"):
        Grid(2).add(images)


@pytest.mark.parametrize("count", [0, -1, None, "a", True, 1.5])
def test_a_grid_has_a_whole_number_of_images(count: int) -> None:
    with pytest.raises(InputError, match="1 image or more"):
        Grid(count)


def test_a_grid_takes_images_of_one_shape_and_no_more_than_it_has_cells() -> None:
    grid = Grid(2)
    with pytest.raises(InputError, match="without an image"):
        _ = grid.picture
    grid.add(IMAGES[:1])
    for images in (IMAGES, IMAGES[:1, :2]):
        with pytest.raises(InputError, match="cannot take"):
            grid.add(images)
    assert (grid.picture[:, :3] == 0).all()
