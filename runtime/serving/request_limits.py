"""A limit of JSON bodies beside their length, so that the time to check one is short."""

from __future__ import annotations

from stylert.core.errors import InputError

#: Quotes and opening brackets in a body. Latents of 4,096 images in nested lists have fewer. Each takes far longer than a digit.
MAX_MARKS = 2**18


def check_marks(body: bytes) -> None:
    """Raise InputError if a JSON text has too many strings, lists and objects. Those within strings count, too."""
    if sum(body.count(mark) for mark in (b'"', b"[", b"{")) > MAX_MARKS:
        raise InputError(f"the request has more than {MAX_MARKS} strings, lists and objects")
