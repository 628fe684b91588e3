"""Errors of the checkpoint readers, and values from a file made safe to print."""

from __future__ import annotations

from stylert.core.errors import CheckpointError


class FormatError(CheckpointError):
    """The file is damaged, hostile, or of another format. `import_checkpoint` puts the path in front of the message."""


class UnsupportedNetworkError(FormatError):
    """The file is whole, but its network has an option that stylert's networks do not have."""


def printable(value: object) -> str:
    """A string or number from a file, as printable ASCII on one line, at most 80 characters.

    Other objects give the name of their type alone, because the text of a container from a file may never end.
    """
    if isinstance(value, int) and not -(10**18) < value < 10**18:
        return "a huge number"
    if value is not None and not isinstance(value, str | int | float | bool):
        return f"a value of type {type(value).__name__}"
    text = "".join(c if c.isascii() and c.isprintable() else "?" for c in str(value)[:81])
    return text if len(text) <= 80 else text[:77] + "..."
