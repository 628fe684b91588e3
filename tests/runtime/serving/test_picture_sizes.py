"""The size of a served picture is that of its longer side."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylert.runtime.serving.image_request import resized_shape


@pytest.mark.parametrize(("size", "expected"), [(None, (32, 64)), (64, (32, 64)), (128, (64, 128)), (16, (8, 16)), (1, (1, 1))])
def test_a_picture_keeps_its_proportions(size: int | None, expected: tuple[int, int]) -> None:
    assert resized_shape(32, 64, size) == expected
    assert resized_shape(64, 32, size) == expected[::-1]


@given(st.integers(1, 4096), st.integers(1, 4096), st.integers(1, 4096))
def test_no_side_is_longer_than_asked_and_none_is_lost(height: int, width: int, size: int) -> None:
    shape = resized_shape(height, width, size)
    assert max(shape) == size
    assert min(shape) >= 1
