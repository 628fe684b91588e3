"""Images become bytes as in the official tools; grids hold every image once, in order, and little else."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stylert.core.images.grids import as_uint8, make_grid


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
