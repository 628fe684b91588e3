"""Boxes are read strictly, and a face that is put back changes its box alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylert.core.errors import InputError
from stylert.runtime.restoration.photographs import Box, crop, parse_box, resized, with_faces
from tests.runtime.restoration.restorers import photograph


@pytest.mark.parametrize(
    "text", ["", "1,2", "1,2,3,4", "a,2,30", "-1,2,30", "1,2,3.5", "1, 2,30", "1,2,7", "1,2,99999999999", "١,2,30"]
)
def test_text_that_is_no_box_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="a box"):
        parse_box(text)


@given(left=st.integers(0, 999_999_999), top=st.integers(0, 999_999_999), side=st.integers(8, 999_999_999))
def test_a_box_is_read_back_from_its_text(left: int, top: int, side: int) -> None:
    assert parse_box(str(Box(left, top, side))) == Box(left, top, side)


@given(height=st.integers(8, 40), width=st.integers(8, 40), data=st.data())
def test_a_face_changes_its_box_alone_and_its_middle_wholly(height: int, width: int, data: st.DataObject) -> None:
    side = data.draw(st.integers(8, min(height, width)))
    box = Box(data.draw(st.integers(0, width - side)), data.draw(st.integers(0, height - side)), side)
    photo, face = photograph(height, width, 1), photograph(side, side, 2)
    result = with_faces(photo, [box], face[None])
    inside = np.zeros((height, width), bool)
    inside[box.top : box.top + side, box.left : box.left + side] = True
    np.testing.assert_array_equal(result[~inside], photo[~inside])
    middle = slice(side // 4, side - side // 4)
    pasted = result[box.top : box.top + side, box.left : box.left + side]
    np.testing.assert_array_equal(pasted[middle, middle], face[middle, middle])
    np.testing.assert_array_equal(pasted[0], photo[box.top, box.left : box.left + side])  # the border is the photograph's
    low, high = np.minimum(photo[inside].reshape(face.shape), face), np.maximum(photo[inside].reshape(face.shape), face)
    assert ((low <= pasted) & (pasted <= high)).all()


def test_an_unchanged_face_leaves_the_picture_as_it_is() -> None:
    photo, box = photograph(50, 60), Box(13, 9, 32)
    np.testing.assert_array_equal(with_faces(photo, [box], crop(photo, box, 32)[None]), photo)


@pytest.mark.parametrize("box", [Box(30, 0, 31), Box(0, 20, 31), Box(100, 100, 8)])
def test_a_box_that_reaches_out_is_refused(box: Box) -> None:
    with pytest.raises(InputError, match=r"reaches out of the picture, which has 60 x 50 pixels"):
        crop(photograph(50, 60), box, 16)


def test_a_square_gets_the_side_of_the_network() -> None:
    flat = np.full((20, 20, 3), 77, np.uint8)
    assert resized(flat, 32).shape == (32, 32, 3)
    assert (resized(flat, 32) == 77).all()
    photo = photograph(32, 32)
    np.testing.assert_array_equal(resized(photo, 32), photo)
