"""Handles are read from text and checked, and every mistake is one line."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylert.core.errors import InputError
from stylert.core.images.handles import MAX_HANDLES, Handle, check_handles, parse_handle, shown_handle

COORDINATE = st.floats(0, 63, width=16)


@given(st.tuples(COORDINATE, COORDINATE, COORDINATE, COORDINATE))
def test_a_handle_survives_its_text(values: tuple[float, float, float, float]) -> None:
    handle = Handle(*(round(value, 2) for value in values))
    assert parse_handle(shown_handle(handle)) == handle


@given(st.text(max_size=20))
def test_any_text_is_a_handle_or_one_line(text: str) -> None:
    try:
        assert len(parse_handle(text)) == 4
    except InputError as e:
        assert "\n" not in str(e)


@pytest.mark.parametrize("text", ["", "1,2", "1,2:3", "1,2:3,4:5,6", "1,2,3:4", "a,2:3,4", "1,2:3,nan", "1;2:3,4", "1_0,2:3,4"])
def test_other_text_is_no_handle(text: str) -> None:
    with pytest.raises(InputError, match="such as 20,30:26,30"):
        parse_handle(text)


@pytest.mark.parametrize(
    ("handles", "message"),
    [
        ([], "1 to 16 handles, not 0"),
        ([Handle(i, 0, i, 1) for i in range(MAX_HANDLES + 1)], "not 17"),
        ([Handle(64, 0, 1, 1)], "coordinates go from 0 to 63"),
        ([Handle(0, 0, 1, -0.5)], "0,0:1,-0.5 is not within"),
        ([Handle(0, math.nan, 1, 1)], "is not within"),
        ([Handle(0, 0, math.inf, 1)], "is not within"),
        ([Handle(3, 4, 3, 4)], "3,4:3,4 is at its target already"),
        ([Handle(3, 4, 5, 6), Handle(1, 1, 5, 6), Handle(3, 4, 7, 8)], "two handles begin at 3,4"),
    ],
)
def test_handles_that_make_no_drag_are_refused(handles: list[Handle], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_handles(handles, 64)


def test_the_corners_are_within_the_image() -> None:
    check_handles([Handle(0, 0, 63, 63), Handle(63, 0, 0, 63)], 64)
