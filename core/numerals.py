"""Numbers as text. Python's own readers also take `1_0` and the digits of every script."""

from __future__ import annotations

import re

#: Longer text is no number that somebody wrote.
MAX_LENGTH = 400


def read_number(text: str) -> float:
    """A number such as `-1.5` or `1e-3`. Raises ValueError for other text."""
    if not is_plain_number(text):
        raise ValueError(f"not a number: {text[:40]!r}")
    return float(text)


def read_whole_number(text: str) -> int:
    """A whole number such as `-2`. Raises ValueError for other text."""
    if not is_plain_number(text):
        raise ValueError(f"not a number: {text[:40]!r}")
    return int(text)


def is_whole_number(text: str, digits: int = 9) -> bool:
    """Whether a text is a number of one to `digits` ASCII digits. Python reads no more than 4300 of them."""
    return 0 < len(text) <= digits and text.isascii() and text.isdigit()


def is_plain_number(text: str) -> bool:
    """Whether a text is one number, in digits of ASCII, with or without a fraction and an exponent."""
    return (
        len(text) <= MAX_LENGTH and re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*", text, re.ASCII | re.I) is not None
    )
