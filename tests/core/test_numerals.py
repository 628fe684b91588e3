"""Numbers are of ASCII digits, and so short that every one of them can be read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylert.core.numerals import is_whole_number, read_number, read_whole_number


@given(st.integers(-(10**12), 10**12))
def test_whole_numbers_are_read(number: int) -> None:
    assert read_whole_number(str(number)) == read_number(str(number)) == number
    assert is_whole_number(str(number), digits=13) == (number >= 0)


@pytest.mark.parametrize("text", ["", " ", "1_0", "٣", "²", "nan", "inf", "0x10", "1" * 5000, "1e", "--1"])
def test_other_texts_are_no_numbers(text: str) -> None:
    assert not is_whole_number(text)
    for read in (read_number, read_whole_number):
        with pytest.raises(ValueError, match="not a number"):
            read(text)


@given(st.text(max_size=12))
def test_any_text_that_is_a_whole_number_can_be_read(text: str) -> None:
    if is_whole_number(text):
        assert 0 <= int(text) < 10**9
